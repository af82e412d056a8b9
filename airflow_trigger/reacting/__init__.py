"""What happens when any DbtRun of a namespace ends: which ones matter, how far the reader is, what it emits."""
