"""Results of evaluations and sweeps, as records."""
