"""Pages of the reference that are generated from the catalogue; ``make pages`` writes them."""

from collections.abc import Iterator, Mapping, Sequence

from esper_ray.nissa.catalogue.kinds import EVENT_SCHEMA, KINDS
from esper_ray.nissa.catalogue.metrics import METRICS
from esper_ray.nissa.catalogue.shapes import Field, Kind

_EVENTS = f"""\
# Events

The event log of a run, version {EVENT_SCHEMA}. `esper events RUN` prints it, `esper sql RUN` queries it with SQL; every
kind is a table, and so is every list of records inside one (`gate_checks`, `env_epoch_slots`). This page is generated
from the catalogue in `esper_ray/nissa/catalogue/` by `make pages`.

Every record carries `run`, `group` (the side of a comparison), `source` (an environment, the learner, the driver),
`source_seq` and `seq` (its number within the source and within the log, both without gaps), and its clock.
Numbers that were not finite are null and named in `nonfinite`.

Clock: `round`, `episode` and `env` count from 0; `step` is the number of finished steps of the episode.
"""


def events_page() -> str:
    """Content of ``docs/pages/reference/events.md``."""
    return "\n".join([_EVENTS, *(line for kind in KINDS.values() for line in _kind_lines(kind))])


_METRICS = """\
---
hide: [toc]
---

# Metrics

This page is the list of all metrics that a run exports to Prometheus. They have the names that Ray gives them;
`esper train ppo --metrics-port 9400` serves the same without Ray. Every metric has the labels `run` and
`group` (the side of a comparison). This page is generated from the catalogue in `esper_ray/nissa/catalogue/` by
`make pages`.

| metric | type | labels | unit | meaning |
|---|---|---|---|---|
"""


def metrics_page() -> str:
    """Content of ``docs/pages/reference/metrics.md``."""
    rows = []
    for metric in METRICS.values():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{metric.exported}` | {metric.type} | {labels} | {metric.unit} | {metric.about} |\n")
    return _METRICS + "".join(rows)


def _kind_lines(kind: Kind) -> Iterator[str]:
    yield f"## {kind.name}\n"
    clock = ", ".join(f"`{member}`" for member in kind.clock)
    yield f"{kind.about} {kind.delivery.capitalize()}; clock: {clock or 'none'}.\n"
    yield "| field | type | unit | meaning |"
    yield "|---|---|---|---|"
    yield from _rows(kind.fields, "")
    yield ""


def _rows(fields: Sequence[Field], within: str) -> Iterator[str]:
    for field in fields:
        kind = field.type + (" or null" if field.optional or field.undefined else "")
        yield f"| `{within}{field.name}` | {kind} | {field.unit} | {field.about} |"
        yield from _rows(field.fields, f"{within}{field.name}.")


def pages() -> Mapping[str, str]:
    """Content of every page by file name."""
    return {"events.md": events_page(), "metrics.md": metrics_page()}
