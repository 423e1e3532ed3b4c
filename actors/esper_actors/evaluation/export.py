"""The export of a policy bundle from a run directory."""

import shlex
from pathlib import Path

import esper_ray
from esper_actors.evaluation.candidates import run_topologies, task_names_of, trained_candidate
from esper_actors.training.checkpoint import CheckpointError, checkpoint_folders, finished_rounds
from esper_policies.bundle import BundleManifest, Provenance, save_bundle
from esper_ray.leyline.config.task_mix import mixed_growth
from esper_ray.nissa.runs.run_directory import RunDirectory


def export_policy(run: Path, target: Path, *, round_index: int | None = None, replace: bool = False) -> BundleManifest:
    """Write the policy of ``run`` to ``target``.

    Args:
        run: directory of a run of `esper train ppo`.
        round_index: number of finished rounds; ``None``: the newest checkpoint.
        replace: overwrite an existing ``target``.

    Raises:
        RunDirectoryError: if ``run`` is not a run directory.
        CheckpointError: if it has no such checkpoint, or that cannot be used.
        BundleError: if ``target`` cannot be written.
    """
    directory = RunDirectory.open(run)
    checkpoints = {finished_rounds(path): path for path in checkpoint_folders(directory.checkpoints)}
    if not checkpoints:
        raise CheckpointError(f"{run} holds no complete checkpoint; only `esper train ppo` writes them")
    finished = max(checkpoints) if round_index is None else round_index
    if finished not in checkpoints:
        there = ", ".join(map(str, checkpoints))
        raise CheckpointError(f"{run} has no checkpoint of round {finished}; it has those of {there}")
    paths = f"{shlex.quote(str(run))} {shlex.quote(str(target))}"
    trained, config = trained_candidate(
        checkpoints[finished], advice=lambda path: f"esper export-policy {paths} --round {finished_rounds(path)}"
    )
    return save_bundle(
        target,
        trained.weights,
        policy=config.policy,
        growth=mixed_growth(config),
        topologies=run_topologies(config, directory.read_manifest()),
        provenance=Provenance(
            run=directory.path.name,
            round=finished,
            episodes=finished * config.system.envs,
            config_sha256=config.digest(),
            task=task_names_of(config),
            reward=config.reward.mode,
            episode_length=config.episode_length,
            package=esper_ray.__version__,
        ),
        replace=replace,
    )
