"""``esper sweep``: runs over reward modes, seeds and any other keys, and their ranking."""

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from esper_ray.cli import options as opt
from esper_ray.leyline.config.reward import REWARD_MODES
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.config.sweep import SCHEDULERS, SweepConfig, expand, read_sweep, sweep_config
from esper_ray.leyline.errors import UsageError

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
        help="number of seeds (from that of the preset), a range such as 100-104, or a list 1,5,9",
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
) -> None:
    """Train over reward modes, seeds and a grid, and rank the trials.

    Trials run side by side on Ray, each with actors of its own. They are ranked by an objective that all reward modes
    share: validation accuracy with committed seeds minus the price of their parameters.

    Example: esper sweep --preset digits --reward-modes shaped sparse --seeds 3 --grid ppo.lr=1e-4,3e-4
    """
    previous = None
    if resume is not None:
        from esper_ray.nissa.runs.sweep_directory import SweepDirectory

        previous = SweepDirectory.open(resume)
        if out is not None:
            raise UsageError(f"--out {out}: --resume continues in {previous.path}; leave one of them out")
    options = {
        "reward_modes": reward_modes or None,
        "seeds": None if seeds is None else parse_seeds(seeds),
        "scheduler": scheduler,
        "window": window,
        "concurrent": concurrent,
        "retries": retries,
    }
    tree = _tree(name, previous, request.preset)
    tree |= {"grid": dict(tree.get("grid") or {}) | parse_grid(grid or [])}
    definition = sweep_config(tree | {key: value for key, value in options.items() if value is not None})
    base = _base(request, definition, tree.get("preset"), None if previous is None else previous.base)
    definition = definition.model_copy(update={"preset": base.name, "settings": {}})
    trials = expand(definition, base)
    if previous is not None:
        _refuse_another(previous, definition, previous.differences(definition, base))
        previous.check()

    from esper_ray.cli.jobs.sweep import SweepJob

    folder = out or SWEEPS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{definition.name}"
    raise SystemExit(SweepJob(definition, base, trials, previous, folder, command=sys.argv).run())


def _base(
    request: opt.ConfigRequest, definition: SweepConfig, preset: str | None, previous: RunConfig | None
) -> RunConfig:
    """The configuration that all trials vary, equal to that of one trial.

    Checks that hold for all trials therefore hold for it.
    """
    flags: dict[str, Any] = dict(definition.settings)
    if definition.reward_modes:
        flags["reward.mode"] = definition.reward_modes[0]
    if request.preset is None and request.config_json is None and previous is None:
        request = replace(request, preset=preset)
    return replace(request, flags={**flags, **request.flags}).configuration(previous)


def _tree(sweep: str | None, previous: "SweepDirectory | None", preset: str | None) -> dict[str, Any]:
    """The sweep that the options refer to."""
    if sweep is not None:
        return read_sweep(sweep)
    if previous is not None:
        tree: dict[str, Any] = previous.sweep.model_dump(mode="json")
        return tree
    return {"name": preset or "sweep"}


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
        if not equals or not key:
            raise UsageError(f"--grid takes KEY=VALUE,VALUE,..., got {flag!r}")
        if not text.strip(" ,"):
            raise UsageError(f"--grid {flag}: {key!r} has no values to try")
        if key in grid:
            raise UsageError(f"--grid {key} is given twice; put all its values into one")
        try:
            values = yaml.safe_load(f"[{text}]")
        except yaml.YAMLError:
            raise UsageError(f"--grid {flag}: the values cannot be read; {text!r} is no list") from None
        grid[key] = [number_or(value) for value in values]
    return grid


def number_or(value: Any) -> Any:
    """``value``, or the number in it, because YAML reads 1e-4 as text."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)e[+-]?\d+", value, re.IGNORECASE):
        return float(value)
    return value


def parse_seeds(text: str) -> int | list[int]:
    """Number of seeds (``3``), or the seeds of a range (``100-104``) or list (``1,5,9``).

    Raises:
        UsageError: if it is none of these forms.
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
