"""The distributed system: training, rollout, Ray shells, evaluation, sweeps and jobs."""
