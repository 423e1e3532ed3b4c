"""The lifecycle of a seed: a pure, torch-free state machine with gates and amplitude ramps."""
