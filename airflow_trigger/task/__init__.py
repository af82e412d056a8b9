"""Which DbtRun belongs to a try of a task, what it says, and who ended the task."""
