"""Pictures, tables and texts about runs, sweeps and evaluations."""
