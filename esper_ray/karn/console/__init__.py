"""Progress of runs and sweeps in a terminal or in a log."""
