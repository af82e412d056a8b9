"""What the command line shows of DbtRunMirrors."""
