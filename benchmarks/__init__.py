"""Measured speed, as ratios within one run. ``python -m benchmarks`` runs all, ``make bench`` too."""
