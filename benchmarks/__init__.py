"""Benchmarks of speed, as ratios within one run. ``python -m benchmarks`` and ``make bench`` run all of them."""
