"""The pages of ``docs/`` that follow from the catalogue; ``make pages`` writes them."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from esper_ray.nissa.catalogue.kinds import EVENT_SCHEMA, KINDS
from esper_ray.nissa.catalogue.metrics import METRICS
from esper_ray.nissa.catalogue.shapes import Field, Kind

_HEAD = f"""\
# Events

The event log of a run, version {EVENT_SCHEMA}. `esper events RUN` prints it, `esper sql RUN` asks it in SQL; every
kind is a table, and so is every list of records inside one (`gate_checks`, `env_epoch_slots`). Written from the
catalogue in `esper_ray/nissa/catalogue/`; `make pages` writes it anew.

Every record carries `run`, `group` (which side of a comparison it is), `source` (an environment, the learner, the
driver), `source_seq` and `seq` (its number within the source and within the log, both without gaps), and its clock.
Numbers that were not finite are null and named in `nonfinite`.

Clock: `round`, `episode` and `env` count from 0; `step` is how many steps of its episode are done.
"""


def events_page() -> str:
    """``docs/events.md``."""
    return "\n".join([_HEAD, *(line for kind in KINDS.values() for line in _of_kind(kind))])


_METRICS = """\
# Metrics

What Prometheus can know of a run, under the names that Ray gives; `esper train ppo --metrics-port 9400` serves the same
without Ray. Every metric has the labels `run` and `group`, the latter for what belongs together, such as a side of a
comparison. Written from the catalogue in `esper_ray/nissa/catalogue/`; `make pages` writes it anew.

| metric | type | labels | unit | what |
|---|---|---|---|---|
"""


def metrics_page() -> str:
    """``docs/metrics.md``."""
    rows = []
    for metric in METRICS.values():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{metric.exported}` | {metric.type} | {labels} | {metric.unit} | {metric.about} |\n")
    return _METRICS + "".join(rows)


def _of_kind(kind: Kind) -> Iterator[str]:
    yield f"## {kind.name}\n"
    clock = ", ".join(f"`{member}`" for member in kind.clock)
    yield f"{kind.about} {kind.delivery.capitalize()}; clock: {clock or 'none'}.\n"
    yield "| field | type | unit | what |"
    yield "|---|---|---|---|"
    yield from _rows(kind.fields, "")
    yield ""


def _rows(fields: Sequence[Field], within: str) -> Iterator[str]:
    for field in fields:
        kind = field.type + (" or null" if field.optional else "")
        yield f"| `{within}{field.name}` | {kind} | {field.unit} | {field.about} |"
        yield from _rows(field.fields, f"{within}{field.name}.")


def pages() -> Mapping[str, str]:
    """Content of every page, by the name of its file."""
    return {"events.md": events_page(), "metrics.md": metrics_page()}


def main(folder: Path) -> None:
    """Write the pages into ``folder``."""
    for name, content in pages().items():
        (folder / name).write_text(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
