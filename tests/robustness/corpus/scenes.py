"""Undamaged inputs, made once: two small runs, and what is made of them."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from cli_builders import call, train_below

from corpus.mutations import copied
from esper_actors.evaluation.export import export_policy
from esper_ray.leyline.config.loading import build
from esper_ray.leyline.config.sweep import expand, sweep_config
from esper_ray.nissa.catalogue.kinds import EVENT_SCHEMA
from esper_ray.nissa.log.events import INTEGRITY, integrity
from esper_ray.nissa.runs.copies.remote_copy import RemoteCopy
from esper_ray.nissa.runs.copies.storage import Storage
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.sweep_directory import SweepDirectory

RUN, OTHER, LINES, BUNDLE, STORAGE, SWEEP = "run", "other", "lines", "policy.esper", "storage", "sweep"
SWEPT = {"name": "mine", "reward_modes": ["basic", "sparse"], "seeds": 2, "grid": {"ppo.lr": [1e-4, 1e-3]}, "window": 2}


@dataclass(frozen=True)
class Scenes:
    """Folder with undamaged inputs by name."""

    path: Path

    @property
    def run(self) -> Path:
        """A finished run of two rounds; its events are Parquet files."""
        return self.path / RUN

    @property
    def other(self) -> Path:
        """The same with another seed."""
        return self.path / OTHER

    def lay_out(self, names: tuple[str, ...], folder: Path) -> None:
        """Copy some of the inputs into ``folder``."""
        for name in names:
            source = self.path / name
            if source.is_dir():
                copied(source, folder / name)
            else:
                shutil.copy(source, folder / name)

    def files(self, name: str) -> list[str]:
        """Files of an input, relative to the folder of inputs, sorted."""
        below = [path for path in (self.path / name).rglob("*") if path.is_file() and path.name != "run.lock"]
        return sorted(str(path.relative_to(self.path)) for path in below)

    def size(self, name: str) -> int:
        """Size of a file in bytes."""
        return (self.path / name).stat().st_size


def make_scenes(path: Path) -> Scenes:
    """All inputs, in a new folder."""
    for name, seed in ((RUN, 42), (OTHER, 7)):
        answer = train_below(path, "--rounds", "2", "--run-id", name, "--seed", seed)
        assert answer.code == 0, answer.err
    _make_lines(path)
    export_policy(path / RUN, path / BUNDLE)
    RemoteCopy(Storage(path / STORAGE), RunDirectory.open(path / RUN)).push()
    _make_sweep(path)
    return Scenes(path)


def _make_lines(path: Path) -> None:
    """The run with its events as lines of JSON."""
    run = RunDirectory.open(copied(path / RUN, path / LINES))
    lines = [json.dumps({"schema": EVENT_SCHEMA, **record}) for record in run.events()]
    shutil.rmtree(run.path / "events")
    for name in ("events.jsonl", INTEGRITY):
        (run.path / name).unlink(missing_ok=True)
    run.event_log.tail.write_text("".join(line + "\n" for line in lines))
    (run.path / INTEGRITY).write_text(json.dumps(integrity(run.event_log)))


def _make_sweep(path: Path) -> None:
    """A sweep of eight trials, one of which has two rounds."""
    base = build(RunDirectory.open(path / RUN).config().model_dump(mode="json"), {"ppo.rounds": 4})
    config = sweep_config(SWEPT)
    trials = {trial.name: trial for trial in expand(config, base)}
    sweep = SweepDirectory.create(path / SWEEP, config, base, dict.fromkeys(trials, 160), ["esper", "sweep"])
    name = next(iter(trials))
    run = RunDirectory.create(sweep.trials_path, trials[name].config, ["test"], name)
    for index in range(2):
        row = {"round": index, "env_steps": 40, "committed_accuracy_ratio": 0.5, "val_accuracy_ratio": 0.5}
        row |= {"growth_ratio": 1.0, "fossilised_mean": 1.0, "return_mean": 0.5, "rollbacks": 0}
        run.add_round(row, {"round": index})
    run.close()
    assert call("events", run.path).code == 0
