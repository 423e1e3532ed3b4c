"""Commands that train, and those about what training leaves: sweeps, evaluations, policies, jobs."""
