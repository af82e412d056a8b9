"""How the watcher is seen from outside: logs, metrics, health."""
