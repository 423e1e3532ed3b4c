"""Candidates of an evaluation: policies by name or from disk, and controls without a policy."""

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from esper_actors.training.checkpoint import (
    STATE_FILE,
    CheckpointError,
    checkpoint_folders,
    finished_rounds,
    is_checkpoint_name,
    load_or_name_intact,
)
from esper_policies.baselines import SchedulePolicy, ScriptLine
from esper_policies.bundle import (
    EXTENSION,
    BundleError,
    check_blueprints,
    check_topologies,
    load_bundle,
    pretrained_names,
    pretrained_path,
)
from esper_policies.scripts import BASELINES, SCRIPT_PREFIX, read_script
from esper_policies.tamiyo import LearnedPolicy
from esper_ray.leyline.blueprints import TOPOLOGY_OF_FAMILY, Topology
from esper_ray.leyline.config.base import unknown_name_message
from esper_ray.leyline.config.growth import GrowthConfig
from esper_ray.leyline.config.host import AnyHostConfig, OwnHostConfig
from esper_ray.leyline.config.run import PolicyConfig, RunConfig
from esper_ray.leyline.config.task_mix import members, mixed_growth
from esper_ray.leyline.errors import UserError
from esper_ray.leyline.legality import Limits
from esper_ray.leyline.policy import Policy
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.run_files import RunDirectoryError

WIDE, SCRATCH, SCRATCH_FLOPS = "wide-host", "from-scratch", "from-scratch-flops"
UNSTEERED = (WIDE, SCRATCH, SCRATCH_FLOPS)
"""Controls without growth: a wider host with as many parameters as a policy's final network, and that final network
trained from scratch, for as many epochs or with as many operations. They are derived from the episodes of another
candidate."""
TRIES = re.compile(r"best-of-([1-9]\d?)")
"""Names of the best of several growths by the heuristic."""
FOUND_SCRIPT = "schedule-best"
"""Label of the best script that a search has found; ``schedule:best`` asks for it."""


def unsteered_controls(host: AnyHostConfig) -> tuple[str, ...]:
    """Controls without growth that exist for a host; an own one cannot be widened."""
    return (SCRATCH, SCRATCH_FLOPS) if isinstance(host, OwnHostConfig) else UNSTEERED


MOST_LABEL = 100
"""Characters of a label, which stands in tables and pictures."""
TOPOLOGIES_KEY = "topologies"
"""Key of the manifest of a run with an own host: features at its slots."""


class CandidateError(UserError, ValueError):
    """A policy that cannot be found, read or used."""

    remedy = "Name a policy that `esper evaluate --help` lists, a bundle or a run directory."


@dataclass(frozen=True)
class Candidate:
    """A policy in a form that can be sent to an evaluator."""

    label: str
    baseline: str | None = None
    """Name among :data:`BASELINES`; ``None`` for a learned policy."""
    script: tuple[ScriptLine, ...] | None = None
    config: PolicyConfig | None = None
    weights: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    learned: tuple[tuple[Topology, ...], str] | None = None
    """Topologies and task that it was trained on; ``None`` for a policy without training."""
    growth: GrowthConfig | None = None
    """Blueprints and rules of its training; ``None`` for a policy without training."""
    tries: int = 1
    """Growths of which the best by the objective counts, each with first weights of its own."""
    episodes: int | None = None
    """Episodes of its training; ``None`` for a policy without training."""
    run: Path | None = None
    """Directory of the run that trained it; ``None`` if it comes from elsewhere."""

    def check_serves(self, topologies: Mapping[str, Topology], growth: GrowthConfig) -> None:
        """Check that the policy was trained on the topologies and blueprints of a run.

        Raises:
            CandidateError: if a topology is missing from its training, or a blueprint is another one there.
        """
        if self.learned is None:
            return
        try:
            check_topologies(*self.learned, topologies)
            if self.growth is not None:
                check_blueprints(self.growth, growth)
        except BundleError as error:
            raise CandidateError(f"{self.label} cannot play here: {error}") from error

    def policy(self, limits: Limits, task: str, device: str, *, greedy: bool) -> Policy:
        """The policy, without exploration.

        Raises:
            ValueError: if the policy cannot play on this task or under these limits.
        """
        if self.script is not None:
            return SchedulePolicy(limits, self.script)
        if self.baseline is not None:
            return BASELINES[self.baseline](limits, task)
        assert self.config is not None
        policy = LearnedPolicy(self.config, device)
        policy.load(dict(self.weights), epsilon=0.0)
        policy.greedy = greedy
        return policy


def load_candidate(name: str) -> tuple[Candidate, RunConfig | None]:
    """The candidate named ``name``, and the configuration of its training; ``None`` if unknown.

    Args:
        name: a baseline, ``best-of-4``, ``schedule:FILE``, a run directory, one of its checkpoints, a policy bundle
            (``.esper``), or the name of a bundle that ships, ``tamiyo``.
            ``LABEL=...`` in front of any of them gives it another label.

    Raises:
        CandidateError: if there is no such policy, or its files cannot be used.
        ScriptError: if the script cannot be used.
        CheckpointError: if its checkpoint cannot be used.
        BundleError: if the bundle cannot be used.
    """
    label, equals, what = name.partition("=")
    if not equals or "/" in label or Path(name).exists():  # the path of a file or a URI holds the equals sign
        label, what = "", name
    if label in (*BASELINES, *UNSTEERED) and label != what:
        raise CandidateError(f"{name}: {label!r} means another policy; choose another label")
    candidate, config = _candidate(label, what)
    if not candidate.label.isprintable() or not 0 < len(candidate.label) <= MOST_LABEL:
        raise CandidateError(
            f"{name}: the label {candidate.label!r:.120} must have 1 to {MOST_LABEL} printable characters"
        )
    return candidate, config


def _candidate(label: str, what: str) -> tuple[Candidate, RunConfig | None]:
    """The candidate ``what``, with its own label if ``label`` is empty."""
    if what in BASELINES:
        return Candidate(label or what, baseline=what), None
    if (several := TRIES.fullmatch(what)) is not None:
        return Candidate(label or what, baseline="heuristic", tries=int(several[1])), None
    if what.startswith(SCRIPT_PREFIX):
        return Candidate(label or Path(what).stem, script=read_script(Path(what.removeprefix(SCRIPT_PREFIX)))), None
    path = pretrained_path(what) or Path(what)
    if path.suffix == EXTENSION:
        bundle = load_bundle(path)
        manifest = bundle.manifest
        learned = (manifest.topologies, manifest.provenance.task)
        trained = Candidate(label or path.stem, config=manifest.policy, weights=bundle.weights, learned=learned)
        return replace(trained, growth=manifest.growth, episodes=manifest.provenance.episodes), None
    if not path.exists():
        names = [*BASELINES, *pretrained_names()]
        raise CandidateError(f"{unknown_name_message('policy', what, names)}, and there is no such file or directory")
    return trained_candidate(path, label, lambda checkpoint: f"name {shlex.quote(str(checkpoint))} as the policy")


def trained_candidate(path: Path, label: str = "", advice: Callable[[Path], str] = str) -> tuple[Candidate, RunConfig]:
    """Policy and configuration of a run (its newest checkpoint) or of one of its checkpoints.

    Args:
        advice: the command that uses another checkpoint, for the error of a damaged one.

    Raises:
        CandidateError: if a checkpoint is outside of its run directory.
        CheckpointError: if there is no checkpoint, or it cannot be used.
        RunDirectoryError: if it is not a run directory.
    """
    is_run = (path / "manifest.json").exists()
    is_checkpoint = (path / STATE_FILE).is_file() or (is_checkpoint_name(path.name) and not is_run)
    run = _run_of(path) if is_checkpoint else RunDirectory.open(path)
    config = run.config()
    if is_checkpoint:
        checkpoint = path
    else:
        folders = checkpoint_folders(run.checkpoints)
        if not folders:
            raise CheckpointError(f"{path} holds no complete checkpoint")
        checkpoint = folders[-1]
    weights = load_or_name_intact(checkpoint, config, advice).learner.weights()
    candidate = Candidate(
        label or config.name,
        config=config.policy,
        weights=weights,
        learned=(run_topologies(config, run.read_manifest()), task_names_of(config)),
        growth=mixed_growth(config),
        episodes=finished_rounds(checkpoint) * config.system.envs,
        run=run.path,
    )
    return candidate, config


def run_topologies(config: RunConfig, manifest: Mapping[str, Any]) -> tuple[Topology, ...]:
    """Topologies of the slots of a run. Those of an own host are in its manifest.

    Raises:
        CandidateError: if the manifest lacks them.
    """
    hosts = [member.config.host for member in members(config)]
    families = [host.family for host in hosts if not isinstance(host, OwnHostConfig)]
    if len(families) == len(hosts):
        return tuple(dict.fromkeys(TOPOLOGY_OF_FAMILY[family] for family in families))
    recorded = manifest.get(TOPOLOGIES_KEY)
    names = {topology.value: topology for topology in Topology}
    if not isinstance(recorded, list) or not recorded or any(name not in names for name in recorded):
        raise CandidateError(
            f"run {manifest['run_id']}: its manifest has the {TOPOLOGIES_KEY} {recorded!r:.80} of no host"
        )
    return tuple(names[name] for name in recorded)


def task_names_of(config: RunConfig) -> str:
    """Names of the tasks of a run."""
    return ", ".join(dict.fromkeys(member.config.task.name for member in members(config)))


def _run_of(checkpoint: Path) -> RunDirectory:
    """The run directory that contains ``checkpoint``.

    Raises:
        CandidateError: if there is none.
    """
    try:
        return RunDirectory.open(checkpoint.absolute().parent.parent)
    except RunDirectoryError as error:
        raise CandidateError(
            f"{checkpoint} is a checkpoint outside of its run directory, whose manifest has the policy's size; name "
            "the run directory, or a bundle that `esper export-policy` made of it"
        ) from error
