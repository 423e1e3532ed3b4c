"""Benchmarks of runs: environments, learner, controller, telemetry, command line."""
