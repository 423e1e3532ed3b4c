"""Adapter for RLlib: configuration, learner with our loss, RLModule."""
