"""``esper sweep``: many runs over reward modes, seeds and any other keys, and which of them do best."""

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from esper_ray.cli import options as opt
from esper_ray.leyline.config.reward import REWARD_MODES
from esper_ray.leyline.config.sweep import SCHEDULERS, SweepConfig, expand, read_sweep, sweep_config
from esper_ray.leyline.errors import UsageError

SWEEPS = Path("sweeps")


def sweep(
    sweep: Annotated[
        str | None, typer.Option(help="a shipped sweep (reward_modes) or a file; flags override it")
    ] = None,
    preset: opt.Preset = None,
    config_json: opt.ConfigJson = None,
    task: opt.Task = None,
    data_dir: opt.DataDir = None,
    reward_modes: Annotated[
        list[str] | None, typer.Option(help=f"what is rewarded: all, or some of {', '.join(REWARD_MODES)}")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="how many (from that of the preset on), a range such as 100-104, or a list 1,5,9")
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE,...", help="a configuration key with values to try; again for more"),
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help=f"one of {', '.join(SCHEDULERS)}")] = None,
    rounds: Annotated[int | None, typer.Option(help="rounds of playing and learning of each trial")] = None,
    envs: Annotated[int | None, typer.Option(help="episodes per round")] = None,
    envs_per_actor: Annotated[int | None, typer.Option(help="environments for which one actor is started")] = None,
    episode_length: opt.EpisodeLength = None,
    device: opt.Device = None,
    devices: opt.Devices = None,
    settings: opt.Settings = None,
    window: Annotated[int | None, typer.Option(help="last rounds of a trial whose mean objective is its score")] = None,
    concurrent: Annotated[int | None, typer.Option(help="trials at a time; 0: as many as fit")] = None,
    retries: Annotated[int | None, typer.Option(help="times that a trial is taken up again after an error")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the sweep; default sweeps/<time>-<name>")] = None,
    resume: Annotated[Path | None, typer.Option(help="folder of a sweep to go on with")] = None,
) -> None:
    """Train a policy for every reward mode, seed and point of a grid, and rank what they come to.

    Trials run side by side on Ray, each with actors of its own. The ranking goes by an objective that all
    reward modes share: validation accuracy with committed seeds minus the price of their parameters.
    """
    from esper_ray.cli.jobs.sweep import SweepJob
    from esper_ray.nissa.runs.sweep_directory import SweepDirectory

    previous = SweepDirectory.open(resume) if resume is not None else None
    if previous is not None and out is not None:
        raise UsageError(f"--out {out}: --resume goes on in {previous.path}; leave one of them out")
    tree = _tree(sweep, previous, preset)
    tree |= {"grid": dict(tree.get("grid") or {}) | parse_grid(grid or [])}
    tree |= {
        key: value
        for key, value in (
            ("reward_modes", reward_modes or None),
            ("seeds", None if seeds is None else parse_seeds(seeds)),
            ("scheduler", scheduler),
            ("window", window),
            ("concurrent", concurrent),
            ("retries", retries),
        )
        if value is not None
    }
    asked = sweep_config(tree)
    flags = {
        "task.name": task,
        "task.data_dir": None if data_dir is None else str(data_dir),
        "ppo.rounds": rounds,
        "system.envs": envs,
        "system.envs_per_actor": envs_per_actor,
        "episode_length": episode_length,
        "system.device": device,
        "system.devices": devices or None,
    }
    if asked.reward_modes:  # the base is one of the trials, so that what holds of them all holds of it
        flags["reward.mode"] = asked.reward_modes[0]
    flags = dict(asked.settings) | {key: value for key, value in flags.items() if value is not None}
    named = preset or (tree.get("preset") if config_json is None and previous is None else None)
    base = opt.configuration(named, config_json, flags, settings, None if previous is None else previous.base)
    asked = asked.model_copy(update={"preset": base.name, "settings": {}})
    trials = expand(asked, base)
    if previous is not None:
        _refuse_another(previous, asked, previous.differences(asked, base))
        previous.check()
    folder = out or SWEEPS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{asked.name}"
    job = SweepJob(asked, base, trials, previous, folder, command=sys.argv)
    raise SystemExit(job.run())


def _tree(sweep: str | None, previous: Any, preset: str | None) -> dict[str, Any]:
    """The sweep that the flags refer to."""
    if sweep is not None:
        return read_sweep(sweep)
    if previous is not None:
        tree: dict[str, Any] = previous.sweep.model_dump(mode="json")
        return tree
    return {"name": preset or "sweep"}


def _refuse_another(previous: Any, asked: SweepConfig, differences: Sequence[str]) -> None:
    if differences:
        raise UsageError(
            f"{previous.path} is another sweep than the one asked for ({asked.name}); to go on with it, give "
            "--resume alone:\n" + "\n".join(differences)
        )


def parse_grid(flags: Sequence[str]) -> dict[str, list[Any]]:
    """``ppo.lr=1e-4,3e-4`` as ``{"ppo.lr": [0.0001, 0.0003]}``; values may be lists such as ``[r0c0,r0c1]``.

    Raises:
        UsageError: if a flag is no pair, has no values or cannot be read, or a key comes twice.
    """
    found: dict[str, list[Any]] = {}
    for flag in flags:
        key, equals, text = flag.partition("=")
        if not equals or not key:
            raise UsageError(f"--grid takes KEY=VALUE,VALUE,..., got {flag!r}")
        if not text.strip(" ,"):
            raise UsageError(f"--grid {flag}: {key!r} has no values to try")
        if key in found:
            raise UsageError(f"--grid {key} is given twice; put all its values into one")
        try:
            values = yaml.safe_load(f"[{text}]")
        except yaml.YAMLError:
            raise UsageError(f"--grid {flag}: the values cannot be read; {text!r} is no list") from None
        found[key] = [number_or(value) for value in values]
    return found


def number_or(value: Any) -> Any:
    """``value``, or the number that it spells: YAML takes 1e-4 for a word."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)e[+-]?\d+", value, re.IGNORECASE):
        return float(value)
    return value


def parse_seeds(text: str) -> int | list[int]:
    """``3`` is a number of seeds, ``100-104`` and ``1,5,9`` are seeds themselves.

    Raises:
        UsageError: if it is none of them.
    """
    if re.fullmatch(r"\d+", text):
        if int(text) < 1:
            raise UsageError(f"--seeds {text}: one seed at least; a single seed is a list such as 7,")
        return int(text)
    if match := re.fullmatch(r"(\d+)-(\d+)", text):
        first, last = map(int, match.groups())
        if last < first:
            raise UsageError(f"--seeds {text}: the last seed must not be below the first")
        return list(range(first, last + 1))
    if re.fullmatch(r"\d+(,\d+)+,?|\d+,", text):
        return [int(part) for part in text.split(",") if part]
    raise UsageError(f"--seeds takes a number, a range such as 100-104 or a list such as 1,5,9; got {text!r}")
