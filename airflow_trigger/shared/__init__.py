"""What operators and triggers have in common: arguments, names, access to a cluster, and a DbtRun as they read it."""
