"""Logs of any length for the benchmark of viewers, from one played round."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from esper_ray.karn.following import RunFollower
from esper_ray.karn.recent import RecentRecords
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.policy import Episode
from esper_ray.leyline.records import Record
from esper_ray.nissa.catalogue.kinds import EVENT_SCHEMA, KINDS
from esper_ray.nissa.log.parquet import SUMMARY, write_part
from esper_ray.nissa.log.part_states import PartStates
from esper_ray.nissa.log.validation import source_of
from esper_ray.nissa.runs.run_directory import RunDirectory

PART_EVENTS = 5000
"""Events of a part: about 4 MiB of lines, after which a run compacts its log."""
ENVS = 64
_BLANK = {"int": 0, "float": 0.0, "bool": False, "text": "", "ints": [], "floats": [], "texts": [], "records": []}


def blank(kind: str, **values: Any) -> dict[str, Any]:
    """A record of a kind in which all other fields are empty, zero or null."""
    declared = KINDS[kind]
    fields = {field.name: None if field.optional else _BLANK.get(field.type, {}) for field in declared.fields}
    return {"kind": kind, **dict.fromkeys(declared.clock, 0), **fields, **values}


def records(episodes: Sequence[Episode], count: int) -> Iterator[Record]:
    """At least ``count`` records of a run with ``ENVS`` environments, whole rounds."""
    yield blank("run_started", config_sha256="0" * 64)
    made, index = 1, 0
    while made < count:
        for env in range(ENVS):
            clock = {"round": index, "episode": index * ENVS + env, "env": env}
            played = [record for record in episodes[env % len(episodes)].log if record["kind"] != "control"]
            yield from ({**record, **clock} for record in played)
            made += len(played)
        update = {"round": index, "optimizer_steps": 8, "kl": 0.01, "entropy": 2.0}
        yield blank("ppo_update", **update)
        yield blank("round", **update, episodes=ENVS, val_accuracy_ratio=0.4, return_mean=0.1)
        made, index = made + 2, index + 1


def build(folder: Path, config: RunConfig, episodes: Sequence[Episode], count: int) -> RunDirectory:
    """A run with ``count`` events, and at most a round more.

    Those after the last part are lines.
    """
    run = RunDirectory.create(folder, config, ["benchmark"], f"events-{count}")
    batch: list[dict[str, Any]] = []
    sources = Counter[str]()
    for number, record in enumerate(records(episodes, count)):
        source = source_of(record)
        origin = {"run": run.names.run, "group": "", "source": source, "source_seq": sources[source], "seq": number}
        sources[source] += 1
        batch.append({**origin, **record})
        if len(batch) == PART_EVENTS:
            write_part(run.path / "events", batch)
            batch = []
    lines = (json.dumps({"schema": EVENT_SCHEMA, **record}) + "\n" for record in batch)
    run.event_log.tail.write_text("".join(lines))
    return run


def without_summaries(run: RunDirectory) -> RunDirectory:
    """The same run beside it, as an older program would have written it."""
    other = run.path.with_name(f"{run.path.name}-old")
    shutil.copytree(run.path, other, ignore=shutil.ignore_patterns(SUMMARY), copy_function=os.link)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").unlink()
    (other / "manifest.json").write_text(json.dumps(manifest | {"run": run.names.run}))
    return RunDirectory.open(other)


def opened(run: RunDirectory, collector: RecentRecords | None = None, states: PartStates | None = None) -> RunFollower:
    """A follower that has read the whole run."""
    follower = RunFollower(run, collector=collector, states=states)
    while follower.poll():
        pass
    return follower
