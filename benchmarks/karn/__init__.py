"""Benchmarks of viewers."""
