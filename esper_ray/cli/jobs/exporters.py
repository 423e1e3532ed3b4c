"""Who shows the metrics of a run: a port of this machine, Ray's metrics agents, both, or nobody."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console

from esper_ray.nissa.metrics.exporter import Exporter, PrometheusExporter
from esper_ray.nissa.metrics.projection import Change


class CombinedExporter:
    """Exporters as one."""

    def __init__(self, exporters: Iterable[Exporter]) -> None:
        self._exporters = tuple(exporters)

    def apply(self, changes: Iterable[Change]) -> None:
        """Show what has changed."""
        found = list(changes)
        for exporter in self._exporters:
            exporter.apply(found)

    def close(self) -> None:
        """Show nothing any more."""
        for exporter in self._exporters:
            exporter.close()


@contextmanager
def exporters(
    run: str, group: str, port: int | None, through: Exporter | None, console: Console
) -> Iterator[Exporter | None]:
    """Exporters for as long as a run goes on; ``None`` if nobody wants its metrics.

    Args:
        port: of this machine, to serve metrics on; 0 takes a free one.
        through: shows them where the crew works.

    Raises:
        ExporterError: if the port is taken.
    """
    found = [] if through is None else [through]
    with ExitStack() as stack:
        if port is not None:
            served = stack.enter_context(PrometheusExporter(run, group, port))
            console.print(f"metrics http://127.0.0.1:{served.port}/metrics", highlight=False, soft_wrap=True)
            found.append(served)
        yield CombinedExporter(found) if found else None
