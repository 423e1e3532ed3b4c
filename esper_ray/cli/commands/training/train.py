"""``esper train``: train a policy by PPO, or run the heuristic policy."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from esper_ray.cli import options as opt
from esper_ray.cli.commands.training import watching
from esper_ray.leyline.errors import UsageError
from esper_ray.leyline.names import RUNS, checked_option
from esper_ray.leyline.plugins.origins import check_origins
from esper_ray.leyline.process.credentials import has_credentials

if TYPE_CHECKING:
    from esper_ray.leyline.config.reward_pair import Pair
    from esper_ray.leyline.config.run import RunConfig
    from esper_ray.nissa.runs.run_directory import RunDirectory

HELP = """Train on growing networks.

Example: esper train ppo --preset digits
"""

app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False)

AB_SEEDS = 20
"""Seeds of the evaluation after a comparison, unless another number is chosen."""
SHARED = ("task", "host", "data_dir", "episode_length", "seed", "reward_mode", "slots", "max_seeds")
LEARNING = ("rounds", "envs", "ppo_epochs", "memory_size")
PLACEMENT = ("device", "devices", "envs_per_actor", "gpus_per_actor", "serial")
RUN, TELEMETRY, COMPARISON = "Run directory", "Telemetry", "Comparison of two reward modes"

TelemetryDir = Annotated[
    Path | None, typer.Option(help="folder of the run directories; default: runs", rich_help_panel=RUN)
]
Resume = Annotated[
    str | None,
    typer.Option(help="run directory, or URI of its copy in a storage, of the run to resume", rich_help_panel=RUN),
]
CheckpointName = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="NAME",
        help="checkpoint of the resumed run, such as round-00003; later rounds are cut; default: the newest",
        rich_help_panel=RUN,
    ),
]
RunId = Annotated[
    str | None,
    typer.Option(
        help="run name; resumes it if it exists locally or in --storage, otherwise starts it", rich_help_panel=RUN
    ),
]
StoragePlace = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="shared folder or URI (s3://..., gs://...) for a copy of the run",
        rich_help_panel=RUN,
    ),
]
Save = Annotated[
    Path | None, typer.Option(help="folder for a copy of the final checkpoint; must not exist", rich_help_panel=RUN)
]
DualAB = Annotated[
    str | None,
    typer.Option(
        "--dual-ab",
        metavar="MODE-vs-MODE",
        help="train a policy for each of two reward modes, and compare them",
        rich_help_panel=COMPARISON,
    ),
]
ABSeeds = Annotated[
    int | None,
    typer.Option(
        min=2,
        max=10_000,
        help="held-out seeds on which both policies of --dual-ab are evaluated; default: 20",
        rich_help_panel=COMPARISON,
    ),
]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65535,
        help="port on which metrics are served to Prometheus; 0: a free one",
        rich_help_panel=TELEMETRY,
    ),
]
Wandb = Annotated[
    bool,
    typer.Option("--wandb", help="also log to Weights & Biases (WANDB_PROJECT, WANDB_MODE)", rich_help_panel=TELEMETRY),
]
Mlflow = Annotated[
    bool, typer.Option("--mlflow", help="also log to MLflow (MLFLOW_TRACKING_URI)", rich_help_panel=TELEMETRY)
]
Tensorboard = Annotated[
    bool, typer.Option("--tensorboard", help="also write files for TensorBoard", rich_help_panel=TELEMETRY)
]
MinImprovement = Annotated[
    float | None,
    typer.Option(help="contribution in percentage points above which a seed is fossilized", rich_help_panel=opt.TASK),
]


@app.command(cls=opt.ConfiguredCommand)
@opt.configured(*SHARED, *LEARNING, *PLACEMENT, "compile_mode", "telemetry", no_ops=True)
def ppo(
    request: opt.ConfigRequest,
    telemetry_dir: TelemetryDir = None,
    resume: Resume = None,
    checkpoint: CheckpointName = None,
    run_id: RunId = None,
    storage: StoragePlace = None,
    save: Save = None,
    dual_ab: DualAB = None,
    ab_seeds: ABSeeds = None,
    metrics_port: MetricsPort = None,
    wandb: Wandb = False,
    mlflow: Mlflow = False,
    tensorboard: Tensorboard = False,
    sanctum: watching.SanctumFlag = False,
    overwatch: watching.OverwatchFlag = False,
    overwatch_port: watching.OverwatchPort = None,
    keep: watching.Keep = False,
) -> None:
    """Train the policy Tamiyo by PPO: environments and learner are Ray actors.

    Options that are left out keep the values of the preset.

    Example: esper train ppo --preset digits --rounds 20 --set ppo.lr=1e-3
    """
    page_port = watching.chosen_port(sanctum, overwatch, overwatch_port, keep)
    _check_run_names(resume, run_id, checkpoint)
    _check_ab_seeds(ab_seeds, dual_ab)
    sinks = [name for name, enabled in (("mlflow", mlflow), ("tensorboard", tensorboard), ("wandb", wandb)) if enabled]
    pair = None if dual_ab is None else _compared_modes(dual_ab, request, resume, save, metrics_port, sinks)
    continues = dual_ab is None and (resume is not None or run_id is not None)
    layered = request.layered() if request.has_source or not continues else None
    parent = telemetry_dir or RUNS
    storage = _place_of_copy(storage, resume, run_id, parent)
    _check_sinks(sinks)
    previous = _previous_run(resume, run_id, telemetry_dir, storage) if continues else None
    if previous is not None:
        check_origins(str(previous.path), previous.read_manifest())
    layered = layered or request.layered(None if previous is None else previous.config())
    config = layered.config
    _check_metrics_port(metrics_port, config)
    _check_places(config)
    from esper_ray.cli.jobs.page import page_server, run_beside

    if pair is not None:
        from esper_ray.cli.jobs.compare import ComparisonJob

        options = {"run_id": run_id, "storage": storage}
        seeds, notes = range(ab_seeds or AB_SEEDS), layered.describe()
        dual = ComparisonJob(config, pair, parent, seeds=seeds, command=sys.argv, notes=notes, **options)
        raise SystemExit(run_beside(page_server(parent, page_port, keep), dual.run))
    from esper_actors.training.run_preparation import prepare_run
    from esper_ray.cli.jobs.train import PPOJob

    place = previous or (None if run_id is None else parent / run_id)
    run = prepare_run(config, place, parent=parent, storage=storage, command=sys.argv, checkpoint=checkpoint)
    page = page_server(run.parent, page_port, keep)
    job = PPOJob(run, save=save, metrics_port=metrics_port, sinks=sinks, notes=layered.describe(), page=page)
    raise SystemExit(run_beside(page, job.run))


def _run_path(resume: str | None, run_id: str | None, parent: Path) -> Path:
    """Path of the directory of the run; of any name for a new one without."""
    if resume is not None and "://" not in resume:
        return Path(resume)
    from esper_ray.nissa.runs.copies.storage import split_place

    return parent / (run_id or (None if resume is None else split_place(resume)[1]) or "run")


def _check_ab_seeds(ab_seeds: int | None, dual_ab: str | None) -> None:
    if ab_seeds is not None and dual_ab is None:
        raise UsageError(f"--ab-seeds {ab_seeds} belongs to --dual-ab MODE-vs-MODE")


def _check_sinks(sinks: list[str]) -> None:
    from esper_ray.nissa.sinks.registry import check_sinks

    check_sinks(sinks)


def _check_places(config: "RunConfig") -> None:
    """Check devices and data before anything is written."""
    from esper_ray.tolaria.run_checks import check_devices, check_run

    check_devices(config, on_cluster=config.system.workers == "ray" and "RAY_ADDRESS" in os.environ)
    opt.echo_loading(config)
    opt.echo_notes(check_run(config))


def _check_run_names(resume: str | None, run_id: str | None, checkpoint: str | None) -> None:
    """
    Raises:
        UsageError: naming the options that exclude or need each other, or an invalid name.
    """
    if resume is not None and run_id is not None:
        raise UsageError(f"--resume {resume} and --run-id {run_id} exclude each other")
    if run_id is not None:
        checked_option("--run-id", run_id)
    if checkpoint is not None and resume is None:
        raise UsageError(f"--checkpoint {checkpoint} belongs to --resume RUN")


def _compared_modes(
    modes: str,
    request: opt.ConfigRequest,
    resume: str | None,
    save: Path | None,
    metrics_port: int | None,
    sinks: list[str],
) -> "Pair":
    """The reward modes of a comparison.

    Raises:
        UsageError: if ``modes`` is not a pair, or naming the options that belong to one run.
    """
    from esper_ray.leyline.config.reward_pair import parse_pair

    pair = parse_pair(modes)
    if (resume, request.flags.get("reward.mode"), save) != (None, None, None):
        raise UsageError("--dual-ab names its reward modes and its runs: leave --resume, --reward-mode and --save out")
    if metrics_port is not None or sinks:
        raise UsageError("--metrics-port, --wandb, --mlflow and --tensorboard watch one run; --dual-ab has two")
    return pair


def _place_of_copy(storage: str | None, resume: str | None, run_id: str | None, parent: Path) -> str | None:
    """Folder or URI for the copy of the run, which must not overlap the run.

    It is that of ``--resume URI`` if the URI has credentials.
    """
    from esper_ray.nissa.runs.copies.storage import checked_storage, split_place

    if storage is None and resume is not None and has_credentials(resume):
        storage = split_place(resume)[0]  # the manifest has no credentials
    return None if storage is None else checked_storage(storage, _run_path(resume, run_id, parent))


def _check_metrics_port(port: int | None, config: "RunConfig") -> None:
    if port is not None and config.telemetry.level == "off":
        raise UsageError(f"--metrics-port {port}: with telemetry off there are no metrics")


def _previous_run(
    resume: str | None, run_id: str | None, telemetry_dir: Path | None, storage: str | None
) -> "RunDirectory | None":
    """The run to resume; ``None`` if the name is new."""
    from esper_actors.training.run_preparation import run_by_name, run_to_resume

    if resume is not None:
        return run_to_resume(resume, telemetry_dir)
    return None if run_id is None else run_by_name(run_id, telemetry_dir or RUNS, storage, _warn)


def _warn(line: str) -> None:
    typer.echo(line, err=True)


@app.command(cls=opt.ConfiguredCommand)
@opt.configured(*SHARED, opt.PLAYER_DEVICE, "compile_mode", no_ops=True)
def heuristic(
    request: opt.ConfigRequest,
    episodes: Annotated[int, typer.Option(min=1, max=100_000, help="episodes to run")] = 1,
    min_fossilize_improvement: MinImprovement = None,
    telemetry_dir: TelemetryDir = None,
    sanctum: watching.SanctumFlag = False,
    overwatch: watching.OverwatchFlag = False,
    overwatch_port: watching.OverwatchPort = None,
    keep: watching.Keep = False,
) -> None:
    """Run episodes with the heuristic policy, in this process.

    Options that are left out keep the values of the preset.

    Example: esper train heuristic --preset digits --episodes 3
    """
    page_port = watching.chosen_port(sanctum, overwatch, overwatch_port, keep)
    if min_fossilize_improvement is not None and not 0 <= min_fossilize_improvement <= 100:
        raise UsageError(f"--min-fossilize-improvement must lie in [0, 100], got {min_fossilize_improvement}")
    layered = request.layered()
    config = layered.config
    from esper_ray.tolaria.run_checks import check_devices, check_run

    check_devices(config, on_cluster=False)
    opt.echo_loading(config)
    opt.echo_notes(check_run(config))

    from esper_ray.cli.jobs.page import page_server, run_beside
    from esper_ray.cli.jobs.train import HeuristicJob

    parent = telemetry_dir or RUNS
    opt.echo_differences(layered)
    raise SystemExit(
        run_beside(
            page_server(parent, page_port, keep),
            lambda: HeuristicJob(config, parent, episodes, min_fossilize_improvement, command=sys.argv).run(),
        )
    )
