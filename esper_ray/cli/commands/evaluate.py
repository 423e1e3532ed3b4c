"""``esper evaluate``: play policies on the same seeds, and compare them."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from esper_ray.cli import options as opt
from esper_ray.leyline.errors import UsageError

EVALUATIONS = Path("evaluations")


def evaluate(
    policies: Annotated[
        list[str],
        typer.Argument(
            metavar="POLICY...",
            help="heuristic, random, static, schedule, schedule:FILE, oracle, a run directory, a checkpoint or a "
            "bundle; LABEL=POLICY gives another label",
        ),
    ],
    task: opt.Task = None,
    preset: opt.Preset = None,
    config_json: opt.ConfigJson = None,
    data_dir: opt.DataDir = None,
    seeds: Annotated[str, typer.Option(help="how many (0, 1, ...), or a range such as 100-119")] = "20",
    control: Annotated[str, typer.Option(help="what the others are compared with, seed by seed")] = "static",
    controls: Annotated[
        bool,
        typer.Option(
            help="also static, random, heuristic; and, made after the final networks of the first policy, wide-host "
            "(the host alone, as many parameters from the start) and from-scratch (the same topology)"
        ),
    ] = True,
    sample: Annotated[
        bool, typer.Option("--sample", help="learned policies draw; else they take the likeliest")
    ] = False,
    episode_length: opt.EpisodeLength = None,
    settings: opt.Settings = None,
    devices: opt.Devices = None,
    workers: Annotated[int | None, typer.Option(min=1, help="actors; default: one for each CPU")] = None,
    serial: Annotated[bool, typer.Option("--serial", help="one process, without Ray; the same results")] = False,
    out: Annotated[Path | None, typer.Option(help="folder for table and picture; default evaluations/<time>")] = None,
) -> None:
    """Play policies without exploration on paired seeds, and compare test accuracy, cost and stability.

    The environment is that of --preset, --config-json or --task; else that under which the first learned policy
    was trained. Nothing here is used for training: the test split is looked at in no other place.
    """
    from esper_actors.evaluation.candidates import UNSTEERED, load_candidate
    from esper_actors.evaluation.evaluator import labelled
    from esper_ray.cli.jobs.evaluate import EvaluationJob, environment_of

    chosen = seed_list(seeds)
    more = [name for name in ("static", "random", "heuristic") if controls and name not in policies]
    found = [load_candidate(name) for name in (*policies, *more)]
    data = None if data_dir is None else str(data_dir)
    where = devices or None
    flags = {"task.name": task, "task.data_dir": data, "episode_length": episode_length, "system.devices": where}
    base = None if task is not None else next((config for _, config in found if config is not None), None)
    config = opt.configuration(preset, config_json, flags, settings, base)
    opt.check_devices(config, on_cluster=False)
    opt.check_run(config)
    contestants = labelled([entry for entry, _ in found])
    unsteered = UNSTEERED if controls else ()
    known = [entry.label for entry in contestants] + list(unsteered)
    if control not in known:
        raise UsageError(f"--control {control}: it is not played; there are {', '.join(known)}")
    environment_of(config, contestants)
    folder = out or EVALUATIONS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{config.name}"
    job = EvaluationJob(config, contestants, unsteered, control, chosen, folder, sample=sample)
    raise SystemExit(job.run(serial=serial, workers=workers))


def seed_list(text: str) -> Sequence[int]:
    """The seeds that ``text`` means: a count, or first and last.

    Raises:
        UsageError: if it is neither, or there are fewer than two.
    """
    match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", text.strip())
    if match is None:
        raise UsageError(f"--seeds takes a number or a range such as 100-119, got {text!r}")
    first, last = match.groups()
    begin, end = (0, int(first)) if last is None else (int(first), int(last) + 1)
    if end > 2**32:
        raise UsageError(f"--seeds {text}: seeds must be below {2**32}")
    if end - begin < 2:
        raise UsageError(f"--seeds {text}: an interval needs at least two seeds, got {max(0, end - begin)}")
    return range(begin, end)
