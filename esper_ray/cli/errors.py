"""Turns errors that a person can mend into one message and exit code 2."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from esper_ray.leyline.loading import ConfigError
from esper_ray.nissa.run_directory import RunDirectoryError

USAGE = 2
FAILED = 1


class UsageError(Exception):
    """A request that cannot be fulfilled as it was made."""


def mendable() -> tuple[type[Exception], ...]:
    """Errors whose message is meant for the user. Imported late: some of their homes are heavy."""
    errors: list[type[Exception]] = [UsageError, ConfigError, RunDirectoryError]
    for module, name in (
        ("esper_ray.tolaria.tasks", "TaskError"),
        ("esper_ray.tolaria.assembly", "GrowthError"),
        ("esper_ray.tolaria.memory", "DeviceMemoryError"),
        ("esper_ray.nissa.parts", "EventLogError"),
        ("esper_ray.nissa.exposition", "ExporterError"),
        ("esper_ray.nissa.prometheus", "PrometheusError"),
        ("esper_ray.nissa.sinks.known", "SinkError"),
        ("esper_ray.nissa.storage", "StorageError"),
        ("actors.replay", "ReplayError"),
        ("actors.checkpoint", "CheckpointError"),
        ("actors.contestants", "ContestantError"),
        ("actors.placement", "ResourceError"),
        ("actors.joining", "ClusterError"),
        ("actors.shipment", "SubmissionError"),
        ("policies.bundle", "BundleError"),
    ):
        if module in sys.modules:  # an error of a module that was never imported cannot be raised
            errors.append(getattr(sys.modules[module], name))
    return tuple(errors)


@contextmanager
def reported() -> Iterator[None]:
    """Print mendable errors raised inside and exit with code 2.

    A run that nobody is left to go on with ends with its last error and code 1; all others keep their traceback.
    """
    try:
        yield
    except Exception as error:
        broken = getattr(sys.modules.get("actors.crew"), "CrewError", ())
        if not isinstance(error, (*mendable(), *([broken] if broken else []))):
            raise
        lines = str(error).splitlines() or [type(error).__name__]
        print("\n".join(f"esper: error: {line}" for line in lines), file=sys.stderr)  # noqa: T201
        raise SystemExit(FAILED if broken and isinstance(error, broken) else USAGE) from None
