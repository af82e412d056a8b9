"""The command line. A command is loaded when it is used: the watcher and a laptop need different libraries."""
