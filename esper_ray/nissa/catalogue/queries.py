"""PromQL for panels, over the runs that the dashboard's variables choose."""

from esper_ray.nissa.catalogue.metrics import METRICS

SELECTED = 'run="$run",group=~"$group"'
"""What the dashboard's variables choose."""


def series(name: str, more: str = "") -> str:
    """One metric of the chosen runs."""
    return f"{METRICS[f'esper_{name}'].exported}{{{SELECTED}{',' if more else ''}{more}}}"


def top(name: str, by: str = "group", more: str = "") -> str:
    """A gauge: after a restart the old process's value is there for a while, so the highest counts."""
    return f"max by ({by}) ({series(name, more)})"


def grown(name: str, by: str, window: str = "$__rate_interval", more: str = "") -> str:
    """How much a counter grows per second."""
    return f"sum by ({by}) (rate({series(name, more)}[{window}]))"


def over(name: str, by: str, more: str = "") -> str:
    """How much a counter has grown over what is shown, its first appearance included, and exactly.

    Prometheus' ``increase`` extrapolates, and knows nothing of what was there when a counter appeared. After a restart
    Ray's counters are series of their own; one that begins anew in its place counts from its highest.
    """
    one = series(name, more)
    most = f"max_over_time({one}[$__range])"
    return f"sum by ({by}) ({most} - ({one} offset $__range or 0 * {most}))"
