"""PromQL expressions for panels, restricted to the selected runs."""

from esper_ray.nissa.catalogue.metrics import METRICS

SELECTED = 'run="$run",group=~"$group"'
"""Label matchers of the dashboard's variables."""


def series(name: str, more: str = "") -> str:
    """Selector of one metric of the selected runs; ``more`` are further label matchers."""
    return f"{METRICS[f'esper_{name}'].exported}{{{SELECTED}{',' if more else ''}{more}}}"


def maximum(name: str, by: str = "group", more: str = "") -> str:
    """Query for the maximum of a gauge over its series.

    After a restart the series of the old process remains for a while beside the new one.
    """
    return f"max by ({by}) ({series(name, more)})"


def rate(name: str, by: str, window: str = "$__rate_interval", more: str = "") -> str:
    """Rate of a counter per second."""
    return f"sum by ({by}) (rate({series(name, more)}[{window}]))"


def increase(name: str, by: str, more: str = "") -> str:
    """Exact increase of a counter in the visible time range, its first value included.

    The function of that name in Prometheus extrapolates, and ignores the first value of a series. After a restart
    Ray's counters are new series; a counter that restarts within its series counts from its maximum.
    """
    selector = series(name, more)
    highest = f"max_over_time({selector}[$__range])"
    return f"sum by ({by}) ({highest} - ({selector} offset $__range or 0 * {highest}))"
