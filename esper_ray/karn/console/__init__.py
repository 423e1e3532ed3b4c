"""Progress of runs and sweeps in a terminal or in a log."""

from esper_ray.karn.console.progress import PlainProgress

__all__ = ["PlainProgress"]
