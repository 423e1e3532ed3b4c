"""Configuration trees of runs and sweeps: models, validation and loading."""
