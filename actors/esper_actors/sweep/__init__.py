"""Sweeps on Ray Tune: tuner, trials, schedulers, resources."""
