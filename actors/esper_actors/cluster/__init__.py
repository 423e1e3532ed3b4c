"""Ray shells of workers, learner and telemetry, their placement and the connection to a cluster."""
