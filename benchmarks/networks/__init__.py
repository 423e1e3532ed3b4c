"""Benchmarks of growing networks: their layers, epochs and measurements."""
