"""Sinks: experiment trackers that receive the numbers of each round."""
