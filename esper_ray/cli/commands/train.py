"""``esper train``: learn a policy, or watch the heuristic one."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from esper_ray.cli import options as opt
from esper_ray.leyline.errors import UsageError

app = typer.Typer(help="Train on growing networks.", no_args_is_help=True)

RUNS = Path("runs")


@app.command()
def ppo(
    preset: opt.Preset = None,
    config_json: opt.ConfigJson = None,
    task: opt.Task = None,
    data_dir: opt.DataDir = None,
    rounds: Annotated[int | None, typer.Option(help="rounds of playing and learning")] = None,
    envs: Annotated[int | None, typer.Option(help="episodes per round")] = None,
    envs_per_actor: Annotated[int | None, typer.Option(help="environments for which one actor is started")] = None,
    episode_length: opt.EpisodeLength = None,
    ppo_epochs: Annotated[int | None, typer.Option(help="passes over each round's episodes")] = None,
    memory_size: Annotated[int | None, typer.Option(help="width of the policy's LSTM")] = None,
    seed: opt.Seed = None,
    device: opt.Device = None,
    devices: opt.Devices = None,
    reward_mode: opt.RewardMode = None,
    slots: opt.Slots = None,
    max_seeds: opt.MaxSeeds = None,
    settings: opt.Settings = None,
    serial: Annotated[bool, typer.Option("--serial", help="one process, without Ray; the same results")] = False,
    telemetry_dir: opt.TelemetryDir = None,
    gpus_per_actor: Annotated[
        float | None, typer.Option(help="share of a GPU that each environment actor takes; else a GPU is divided")
    ] = None,
    resume: Annotated[str | None, typer.Option(help="run directory, or its copy in a storage, to go on from")] = None,
    run_id: Annotated[
        str | None, typer.Option(help="name of the run: gone on with if it exists, here or in the storage, else begun")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="folder or URI (s3://..., gs://...) that all nodes see, for a copy of the run")
    ] = None,
    dual_ab: Annotated[
        str | None,
        typer.Option(
            "--dual-ab",
            metavar="MODE-vs-MODE",
            help="train two policies side by side, one for each reward mode; a verdict",
        ),
    ] = None,
    ab_seeds: Annotated[
        int, typer.Option(min=2, help="held-out seeds on which the verdict of --dual-ab is based")
    ] = 20,
    save: Annotated[Path | None, typer.Option(help="also write the final checkpoint here")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="serve metrics for Prometheus on this port; 0: a free one")
    ] = None,
    wandb: Annotated[
        bool, typer.Option("--wandb", help="also to Weights & Biases (WANDB_PROJECT, WANDB_MODE)")
    ] = False,
    mlflow: Annotated[bool, typer.Option("--mlflow", help="also to MLflow (MLFLOW_TRACKING_URI)")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="also as files for TensorBoard")] = False,
    telemetry: Annotated[
        str | None, typer.Option(help="off, normal or debug: how closely the run is watched; it learns the same")
    ] = None,
    num_workers: opt.NumWorkers = None,
    gpu_preload: opt.GpuPreload = False,
    compile_mode: opt.CompileMode = None,
    force_compile: opt.ForceCompile = False,
) -> None:
    """Train the policy Tamiyo by PPO: environments and learner are Ray actors."""
    from esper_ray.cli.jobs.compare import ComparisonJob, parse_pair
    from esper_ray.cli.jobs.run_lookup import run_of_name, run_to_resume
    from esper_ray.cli.jobs.train import PPOJob
    from esper_ray.nissa.sinks.registry import check_sinks

    opt.refuse_unavailable(num_workers, force_compile)
    if gpu_preload:
        typer.echo("--gpu-preload: the data set always lives on the device; nothing to switch on")
    if resume is not None and run_id is not None:
        raise UsageError(f"--resume {resume} and --run-id {run_id} exclude each other")
    if storage is not None:
        storage = opt.checked_storage(storage)
    pair = None if dual_ab is None else parse_pair(dual_ab)
    if pair is not None and (resume, reward_mode, save) != (None, None, None):
        raise UsageError("--dual-ab names its reward modes and its runs: leave --resume, --reward-mode and --save out")
    sinks = [name for name, asked in (("mlflow", mlflow), ("tensorboard", tensorboard), ("wandb", wandb)) if asked]
    if pair is not None and (metrics_port is not None or sinks):
        raise UsageError("--metrics-port, --wandb, --mlflow and --tensorboard watch one run; --dual-ab has two")
    check_sinks(sinks)
    previous = run_to_resume(resume, telemetry_dir) if resume is not None else None
    if run_id is not None and pair is None:
        previous = run_of_name(run_id, telemetry_dir or RUNS, storage)
    flags = {
        "task.name": task,
        "task.data_dir": None if data_dir is None else str(data_dir),
        "ppo.rounds": rounds,
        "system.envs": envs,
        "system.envs_per_actor": envs_per_actor,
        "system.gpus_per_actor": gpus_per_actor,
        "episode_length": episode_length,
        "ppo.epochs": ppo_epochs,
        "policy.memory_size": memory_size,
        "seed": seed,
        "system.device": device,
        "system.devices": devices or None,
        "training.compile_mode": compile_mode,
        "reward.mode": reward_mode,
        "growth.slots": slots or None,
        "growth.max_seeds": max_seeds,
        "telemetry.level": telemetry,
    }
    base = previous.config() if previous is not None else None
    config = opt.configuration(preset, config_json, flags, settings, base)
    opt.check_devices(config, on_cluster=not serial and "RAY_ADDRESS" in os.environ)
    opt.check_run(config)
    if metrics_port is not None and config.telemetry.level == "off":
        raise UsageError(f"--metrics-port {metrics_port}: with telemetry off there are no metrics")
    if pair is not None:
        dual = ComparisonJob(
            config,
            pair,
            telemetry_dir or RUNS,
            serial=serial,
            seeds=range(ab_seeds),
            command=sys.argv,
            run_id=run_id,
            storage=storage,
        )
        raise SystemExit(dual.run())
    job = PPOJob(
        config,
        telemetry_dir or RUNS,
        serial=serial,
        previous=previous,
        save=save,
        command=sys.argv,
        run_id=run_id,
        storage=storage,
        metrics_port=metrics_port,
        sinks=sinks,
    )
    raise SystemExit(job.run())


@app.command()
def heuristic(
    preset: opt.Preset = None,
    config_json: opt.ConfigJson = None,
    task: opt.Task = None,
    data_dir: opt.DataDir = None,
    episodes: Annotated[int, typer.Option(min=1, help="episodes to play")] = 1,
    episode_length: opt.EpisodeLength = None,
    seed: opt.Seed = None,
    device: opt.Device = None,
    reward_mode: opt.RewardMode = None,
    slots: opt.Slots = None,
    max_seeds: opt.MaxSeeds = None,
    min_fossilize_improvement: Annotated[
        float | None, typer.Option(help="contribution in percentage points above which a seed is kept")
    ] = None,
    settings: opt.Settings = None,
    telemetry_dir: opt.TelemetryDir = None,
    num_workers: opt.NumWorkers = None,
    gpu_preload: opt.GpuPreload = False,
    compile_mode: opt.CompileMode = None,
    force_compile: opt.ForceCompile = False,
) -> None:
    """Play episodes with the hand-written policy, in this process."""
    from esper_ray.cli.jobs.train import HeuristicJob

    opt.refuse_unavailable(num_workers, force_compile)
    if gpu_preload:
        typer.echo("--gpu-preload: the data set always lives on the device; nothing to switch on")
    flags = {
        "task.name": task,
        "task.data_dir": None if data_dir is None else str(data_dir),
        "episode_length": episode_length,
        "seed": seed,
        "system.devices": None if device is None else [device],
        "training.compile_mode": compile_mode,
        "reward.mode": reward_mode,
        "growth.slots": slots or None,
        "growth.max_seeds": max_seeds,
    }
    if min_fossilize_improvement is not None and not 0 <= min_fossilize_improvement <= 100:
        raise UsageError(f"--min-fossilize-improvement must lie in [0, 100], got {min_fossilize_improvement}")
    config = opt.configuration(preset, config_json, flags, settings)
    opt.check_devices(config, on_cluster=False)
    opt.check_run(config)
    job = HeuristicJob(config, telemetry_dir or RUNS, episodes, min_fossilize_improvement, command=sys.argv)
    raise SystemExit(job.run())
