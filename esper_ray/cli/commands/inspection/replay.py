"""``esper replay``: replays a recorded episode and compares it with its record."""

import math
from pathlib import Path
from typing import Annotated

import typer

from esper_ray.cli.options import DataDir

app = typer.Typer(add_completion=False)

DIFFERENT = 1
"""Exit code of a replay that differs from its record."""
OUTCOME = ("total_reward", "val_accuracy_pp")


@app.command()
def replay(
    run: Annotated[Path, typer.Argument(help="run directory", metavar="RUN")],
    episode: Annotated[int, typer.Option(min=0, help="number of the episode within the run")],
    device: Annotated[str | None, typer.Option(help="cpu or cuda:<index>; default: that of the episode")] = None,
    data_dir: DataDir = None,
) -> None:
    """Replay a recorded episode and report the first difference.

    The replay starts from the episode's seed and repeats its actions. On the CPU there must be no difference.
    Exit code 0 without a difference, 1 with one.

    Example: esper replay runs/my-run --episode 0
    """
    import torch

    from esper_actors.rollout.replay import recorded_episode
    from esper_actors.rollout.replay import replay as played
    from esper_ray.environment import MorphogenesisEnv
    from esper_ray.leyline.config.loading import build
    from esper_ray.nissa.runs.run_directory import RunDirectory
    from esper_ray.tolaria.run_checks import checked_device

    directory = RunDirectory.open(run)
    config = directory.config()
    chosen = None if device is None else checked_device("--device", device)
    if data_dir is not None:
        config = build(config.model_dump(mode="json"), {"task.data_dir": str(data_dir)})
    records = recorded_episode(directory.events(), episode)
    recorded = config.system.devices[records[0]["env"] % len(config.system.devices)]
    where = chosen or checked_device(f"the device of episode {episode}, which --device replaces,", recorded)
    torch.set_num_threads(config.system.threads)
    result = played(MorphogenesisEnv(config, where), records)
    if result.difference is None:
        total, accuracy = (math.nan if records[-1][name] is None else records[-1][name] for name in OUTCOME)
        typer.echo(
            f"episode {episode} of {run}: {result.steps} steps played again on {where}, no difference; "
            f"return {total:+.2f}, validation {accuracy:.1f} %"
        )
        return
    typer.echo(f"episode {episode} of {run} differs after {result.steps} of {result.recorded} steps on {where}")
    typer.echo(str(result.difference))
    raise SystemExit(DIFFERENT)
