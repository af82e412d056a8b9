"""The core of DbtRunMirrors: which runs appear, how far the watcher has come, what is pruned. Pure."""
