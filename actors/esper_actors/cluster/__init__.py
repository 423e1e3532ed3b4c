"""Ray shells of environments, learner and telemetry, their placement, and the cluster connection."""
