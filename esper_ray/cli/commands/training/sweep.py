"""``esper sweep``: runs over reward modes, seeds and any other keys, and their ranking."""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esper_ray.cli import options as opt
from esper_ray.cli.commands.training import watching
from esper_ray.leyline.config.documents import DocumentError, parse_yaml
from esper_ray.leyline.config.layers import LayeredConfig, preset_of_file
from esper_ray.leyline.config.loading import ConfigFile
from esper_ray.leyline.config.reward import REWARD_MODES
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.config.sweep import MAX_TRIALS, SCHEDULERS, SweepConfig, expand, read_sweep, sweep_config
from esper_ray.leyline.errors import UsageError, shortened

if TYPE_CHECKING:
    from esper_ray.nissa.runs.sweep_directory import SweepDirectory

SWEEPS = Path("sweeps")


app = typer.Typer(add_completion=False)
TRIALS = "Trials"

SweepName = Annotated[
    str | None, typer.Option("--sweep", help="shipped sweep (reward_modes) or sweep file; options override it")
]
RewardModes = Annotated[
    list[str] | None,
    typer.Option(help=f"reward modes: all, or some of {', '.join(REWARD_MODES)}", rich_help_panel=TRIALS),
]
Seeds = Annotated[
    str | None,
    typer.Option(
        help="number of seeds, a range such as 100-104, or a list 1,5,9",
        rich_help_panel=TRIALS,
    ),
]
Grid = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE,...", help="a configuration key with values to try; repeatable", rich_help_panel=TRIALS
    ),
]
Scheduler = Annotated[str | None, typer.Option(help=f"one of {', '.join(SCHEDULERS)}", rich_help_panel=TRIALS)]
Window = Annotated[
    int | None,
    typer.Option(help="last rounds of a trial whose mean objective is its score", rich_help_panel=TRIALS),
]
Concurrent = Annotated[int | None, typer.Option(help="trials at a time; 0: as many as fit", rich_help_panel=TRIALS)]
Retries = Annotated[int | None, typer.Option(help="restarts of a trial after an error", rich_help_panel=TRIALS)]
Out = Annotated[Path | None, typer.Option(help="folder of the sweep; default: sweeps/<time>-<name>")]
Resume = Annotated[Path | None, typer.Option(help="folder of the sweep to resume")]


@app.command(cls=opt.ConfiguredCommand)
@opt.configured(
    "task", "data_dir", "episode_length", "rounds", "envs", "device", "devices", "envs_per_actor", opt.TRIAL_SERIAL
)
def sweep(
    request: opt.ConfigRequest,
    name: SweepName = None,
    reward_modes: RewardModes = None,
    seeds: Seeds = None,
    grid: Grid = None,
    scheduler: Scheduler = None,
    window: Window = None,
    concurrent: Concurrent = None,
    retries: Retries = None,
    out: Out = None,
    resume: Resume = None,
    sanctum: watching.SanctumFlag = False,
    overwatch: watching.OverwatchFlag = False,
    overwatch_port: watching.OverwatchPort = None,
    keep: watching.Keep = False,
) -> None:
    """Train over reward modes, seeds and a grid, and rank the trials.

    Trials run side by side on Ray, each with actors of its own. They are ranked by an objective that all reward modes
    share: validation accuracy with committed seeds minus the price of their parameters.

    Example: esper sweep --preset digits --reward-modes shaped sparse --seeds 3 --grid ppo.lr=1e-4,3e-4
    """
    page_port = watching.chosen_port(sanctum, overwatch, overwatch_port, keep)
    previous = None if resume is None else _resumed(resume, out)
    options = {
        "reward_modes": reward_modes or None,
        "seeds": None if seeds is None else parse_seeds(seeds),
        "scheduler": scheduler,
        "window": window,
        "concurrent": concurrent,
        "retries": retries,
    }
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    file = None if name is None else read_sweep(name)
    tree = _tree(file, previous, request.preset)
    if grid:
        present = tree.get("grid") or {}
        given["grid"] = (dict(present) if isinstance(present, Mapping) else {}) | parse_grid(grid)
    definition = sweep_config(tree | given, file, given)
    _refuse_fixed(request, definition)
    layered = _base(request, definition, tree.get("preset"), None if previous is None else previous.base)
    base = layered.config
    definition = definition.model_copy(update={"preset": base.name, "settings": {}})
    trials = expand(definition, base)
    if previous is not None:
        _refuse_another(previous, definition, previous.differences(definition, base))
        previous.check()

    from esper_ray.cli.jobs.page import page_server, run_beside
    from esper_ray.cli.jobs.sweep import SweepJob

    folder = out or SWEEPS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{definition.name}"
    opt.echo_loading(base)
    job = SweepJob(definition, base, trials, previous, folder, command=sys.argv)
    opt.echo_differences(layered)
    place = (folder if previous is None else previous.path).parent
    raise SystemExit(run_beside(page_server(place, page_port, keep), job.run))


def _resumed(folder: Path, out: Path | None) -> "SweepDirectory":
    """
    Raises:
        UsageError: if ``--out`` is given, too.
    """
    from esper_ray.nissa.runs.sweep_directory import SweepDirectory

    directory = SweepDirectory.open(folder)
    if out is not None:
        raise UsageError(f"--out {out}: --resume continues in {directory.path}; leave one of them out")
    return directory


def _base(
    request: opt.ConfigRequest, definition: SweepConfig, preset: str | None, previous: RunConfig | None
) -> LayeredConfig:
    """The configuration that all trials vary, equal to that of one trial.

    Checks that hold for all trials therefore hold for it. ``--preset`` overrides the preset of the sweep.
    """
    below: dict[str, Any] = dict(definition.settings)
    if definition.reward_modes:
        below["reward.mode"] = definition.reward_modes[0]
    if request.preset is None and preset is not None and (previous is None or request.config is not None):
        own = None if request.config is None else preset_of_file(request.config)
        if own not in (None, preset):
            raise UsageError(f"--config {request.config} has preset {own!r}, the sweep {preset!r}: choose by --preset")
        request = replace(request, preset=preset)
    return request.layered(previous, below)


def _tree(file: ConfigFile | None, previous: "SweepDirectory | None", preset: str | None) -> dict[str, Any]:
    """The sweep that the options refer to."""
    if file is not None:
        return dict(file.tree)
    if previous is not None:
        tree: dict[str, Any] = previous.sweep.model_dump(mode="json", exclude={"preset"})
        return tree
    return {"name": preset or "sweep"}


def _refuse_fixed(request: opt.ConfigRequest, definition: SweepConfig) -> None:
    """
    Raises:
        UsageError: if a key that trials vary has a value of its own on the command line.
    """
    keys = request.keys()
    varied = {key: f"--grid {key}" for key in definition.grid}
    if definition.reward_modes:
        varied["reward.mode"] = "--reward-modes"
    for key, option in varied.items():
        if key in keys:
            raise UsageError(f"{key} is varied by {option} and has the one value {shortened(keys[key])}: leave one out")


def _refuse_another(previous: "SweepDirectory", definition: SweepConfig, differences: Sequence[str]) -> None:
    if differences:
        raise UsageError(
            f"{previous.path} is another sweep than the requested one ({definition.name}); to resume it, give "
            "--resume alone:\n" + "\n".join(differences)
        )


def parse_grid(flags: Sequence[str]) -> dict[str, list[Any]]:
    """``ppo.lr=1e-4,3e-4`` as ``{"ppo.lr": [0.0001, 0.0003]}``; values may be lists such as ``[r0c0,r0c1]``.

    Raises:
        UsageError: if a flag is not KEY=VALUE, has no values or cannot be read, or a key is repeated.
    """
    grid: dict[str, list[Any]] = {}
    for flag in flags:
        key, equals, text = flag.partition("=")
        shown = flag if len(flag) <= 100 else f"{flag[:97]}..."
        if not equals or not key:
            raise UsageError(f"--grid takes KEY=VALUE,VALUE,..., got {shortened(flag)}")
        if not text.strip(" ,"):
            raise UsageError(f"--grid {shown}: {shortened(key)} has no values to try")
        if key in grid:
            raise UsageError(f"--grid {key} is given twice; put all its values into one")
        try:
            values = parse_yaml(f"[{text}]").tree
        except DocumentError as error:
            raise UsageError(f"--grid {shown}: {shortened(text)} is not a list of values: {error}") from None
        if not isinstance(values, list):
            raise UsageError(f"--grid {shown}: {shortened(text)} is not a list of values")
        grid[key] = values
    return grid


def parse_seeds(text: str) -> int | list[int]:
    """Number of seeds (``3``), or the seeds of a range (``100-104``) or list (``1,5,9``).

    Raises:
        UsageError: if it has none of these forms, or more than ``MAX_TRIALS`` seeds.
    """
    number = "[0-9]{1,10}"
    if re.fullmatch(number, text):
        if int(text) < 1:
            raise UsageError(f"--seeds {text}: one seed at least; a single seed is a list such as 7,")
        return int(text)
    if match := re.fullmatch(f"({number})-({number})", text):
        first, last = map(int, match.groups())
        if last < first:
            raise UsageError(f"--seeds {text}: the last seed must not be below the first")
        if last - first >= MAX_TRIALS:
            raise UsageError(f"--seeds {text}: {last - first + 1:,} seeds exceed {MAX_TRIALS:,}")
        return list(range(first, last + 1))
    if re.fullmatch(f"{number}(,{number})+,?|{number},", text):
        return [int(part) for part in text.split(",") if part]
    raise UsageError(f"--seeds takes a number, a range such as 100-104 or a list such as 1,5,9; got {shortened(text)}")
