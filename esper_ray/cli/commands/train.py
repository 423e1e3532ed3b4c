"""``esper train``: train a policy by PPO, or run the heuristic policy."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from esper_ray.cli import options as opt
from esper_ray.leyline.errors import UsageError

if TYPE_CHECKING:
    from esper_ray.leyline.config.run import RunConfig
    from esper_ray.nissa.runs.run_directory import RunDirectory

HELP = """Train on growing networks.

Example: esper train ppo --preset digits
"""

app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False)

RUNS = Path("runs")
SHARED = ("task", "data_dir", "episode_length", "seed", "reward_mode", "slots", "max_seeds")
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
        help="folder or URI (s3://..., gs://...) shared by all nodes, for a copy of the run",
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
        help="train one policy for each of two reward modes at the same time, and compare them",
        rich_help_panel=COMPARISON,
    ),
]
ABSeeds = Annotated[
    int, typer.Option(min=2, help="held-out seeds on which both policies are evaluated", rich_help_panel=COMPARISON)
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
    run_id: RunId = None,
    storage: StoragePlace = None,
    save: Save = None,
    dual_ab: DualAB = None,
    ab_seeds: ABSeeds = 20,
    metrics_port: MetricsPort = None,
    wandb: Wandb = False,
    mlflow: Mlflow = False,
    tensorboard: Tensorboard = False,
) -> None:
    """Train the policy Tamiyo by PPO: environments and learner are Ray actors.

    Options that are left out keep the values of the preset.

    Example: esper train ppo --preset digits --rounds 20 --set ppo.lr=1e-3
    """
    if resume is not None and run_id is not None:
        raise UsageError(f"--resume {resume} and --run-id {run_id} exclude each other")
    sinks = [name for name, enabled in (("mlflow", mlflow), ("tensorboard", tensorboard), ("wandb", wandb)) if enabled]
    if dual_ab is not None:
        _check_comparison(request, resume, save, metrics_port, sinks)
    continues = dual_ab is None and (resume is not None or run_id is not None)
    config = request.configuration() if request.has_source or not continues else None
    from esper_ray.nissa.runs.storage import checked_storage
    from esper_ray.nissa.sinks.registry import check_sinks
    from esper_ray.tolaria.run_checks import check_devices, check_run

    storage = None if storage is None else checked_storage(storage)
    check_sinks(sinks)
    previous = _previous_run(resume, run_id, telemetry_dir, storage) if continues else None
    config = config or request.configuration(None if previous is None else previous.config())
    _check_metrics_port(metrics_port, config)
    check_devices(config, on_cluster=config.system.workers == "ray" and "RAY_ADDRESS" in os.environ)
    check_run(config)
    parent = telemetry_dir or RUNS
    if dual_ab is not None:
        from esper_ray.cli.jobs.compare import ComparisonJob, parse_pair

        pair, seeds = parse_pair(dual_ab), range(ab_seeds)
        options = {"run_id": run_id, "storage": storage}
        dual = ComparisonJob(config, pair, parent, seeds=seeds, command=sys.argv, **options)
        raise SystemExit(dual.run())
    from esper_ray.cli.jobs.train import PPOJob

    job = PPOJob(
        config,
        parent,
        previous=previous,
        save=save,
        command=sys.argv,
        run_id=run_id,
        storage=storage,
        metrics_port=metrics_port,
        sinks=sinks,
    )
    raise SystemExit(job.run())


def _check_comparison(
    request: opt.ConfigRequest, resume: str | None, save: Path | None, metrics_port: int | None, sinks: list[str]
) -> None:
    """Refuse options of one run where two are compared.

    Raises:
        UsageError: naming the options.
    """
    if (resume, request.flags.get("reward.mode"), save) != (None, None, None):
        raise UsageError("--dual-ab names its reward modes and its runs: leave --resume, --reward-mode and --save out")
    if metrics_port is not None or sinks:
        raise UsageError("--metrics-port, --wandb, --mlflow and --tensorboard watch one run; --dual-ab has two")


def _check_metrics_port(port: int | None, config: "RunConfig") -> None:
    if port is not None and config.telemetry.level == "off":
        raise UsageError(f"--metrics-port {port}: with telemetry off there are no metrics")


def _previous_run(
    resume: str | None, run_id: str | None, telemetry_dir: Path | None, storage: str | None
) -> "RunDirectory | None":
    """The run to resume; ``None`` if the name is new."""
    from esper_actors.training.run_lookup import run_by_name, run_to_resume

    if resume is not None:
        return run_to_resume(resume, telemetry_dir)
    return None if run_id is None else run_by_name(run_id, telemetry_dir or RUNS, storage)


@app.command(cls=opt.ConfiguredCommand)
@opt.configured(*SHARED, opt.PLAYER_DEVICE, "compile_mode", no_ops=True)
def heuristic(
    request: opt.ConfigRequest,
    episodes: Annotated[int, typer.Option(min=1, help="episodes to run")] = 1,
    min_fossilize_improvement: MinImprovement = None,
    telemetry_dir: TelemetryDir = None,
) -> None:
    """Run episodes with the heuristic policy, in this process.

    Options that are left out keep the values of the preset.

    Example: esper train heuristic --preset digits --episodes 3
    """
    if min_fossilize_improvement is not None and not 0 <= min_fossilize_improvement <= 100:
        raise UsageError(f"--min-fossilize-improvement must lie in [0, 100], got {min_fossilize_improvement}")
    config = request.configuration()
    from esper_ray.tolaria.run_checks import check_devices, check_run

    check_devices(config, on_cluster=False)
    check_run(config)

    from esper_ray.cli.jobs.train import HeuristicJob

    job = HeuristicJob(config, telemetry_dir or RUNS, episodes, min_fossilize_improvement, command=sys.argv)
    raise SystemExit(job.run())
