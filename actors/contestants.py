"""Who takes part in an evaluation: policies by name or from disk, and networks that nobody steers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from pydantic import ValidationError
from torch import Tensor

from actors.checkpoint import CheckpointError, checkpoints_in, load_checkpoint
from esper_ray.leyline.config import PolicyConfig, RunConfig
from esper_ray.leyline.legality import Limits
from esper_ray.leyline.loading import ConfigError
from esper_ray.leyline.policy import Policy
from esper_ray.leyline.sections import unknown
from esper_ray.nissa.run_directory import RunDirectory
from policies.baselines import OraclePolicy, RandomPolicy, SchedulePolicy, ScriptLine, StaticPolicy
from policies.heuristic import HeuristicPolicy
from policies.tamiyo import LearnedPolicy

BASELINES: Mapping[str, Callable[[Limits, str], Policy]] = {
    "heuristic": lambda limits, task: HeuristicPolicy(limits),
    "random": lambda limits, task: RandomPolicy(),
    "static": lambda limits, task: StaticPolicy(),
    "schedule": lambda limits, task: SchedulePolicy(limits),
    "oracle": OraclePolicy,
}
"""Policies that are known by name, made for what a run allows on a task."""

WIDE, SCRATCH = "wide-host", "from-scratch"
UNSTEERED = (WIDE, SCRATCH)
"""Networks without growth, made to measure: the host alone with as many parameters from the start as a policy's final
network, and that final network trained from scratch. They are derived from the episodes of another contestant."""


class ContestantError(ValueError):
    """A policy that cannot be found, read or used."""


@dataclass(frozen=True)
class Contestant:
    """A policy that can be sent to whoever plays it."""

    label: str
    baseline: str | None = None
    """Name among :data:`BASELINES`; ``None`` for a learned policy."""
    script: tuple[ScriptLine, ...] | None = None
    config: PolicyConfig | None = None
    weights: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def policy(self, limits: Limits, task: str, device: str, *, greedy: bool) -> Policy:
        """A player, without exploration.

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


def contestant(name: str) -> tuple[Contestant, RunConfig | None]:
    """The contestant that ``name`` means, and the configuration that it was trained under, if it is known.

    Args:
        name: a baseline, ``schedule:FILE``, a run directory, one of its checkpoints, or a policy bundle (``.esper``).
            ``LABEL=...`` in front of any of them gives it another label.

    Raises:
        ContestantError: if there is no such policy, or its files cannot be used.
    """
    label, equals, what = name.partition("=")
    if not equals:
        label, what = "", name
    if what in BASELINES:
        return Contestant(label or what, baseline=what), None
    if what.startswith("schedule:"):
        return Contestant(label or Path(what).stem, script=_script(Path(what.removeprefix("schedule:")))), None
    path = Path(what)
    if path.suffix == ".esper":
        from policies.bundle import load_bundle

        bundle = load_bundle(path)
        return Contestant(label or path.stem, config=bundle.manifest.policy, weights=bundle.weights), None
    if not path.exists():
        raise ContestantError(f"{unknown('policy', what, list(BASELINES))}, and there is no such file or directory")
    return _trained(path, label)


def _trained(path: Path, label: str) -> tuple[Contestant, RunConfig]:
    """The policy of a run directory (its newest checkpoint), or of one checkpoint in it."""
    is_checkpoint = (path / "state.json").is_file()
    run = RunDirectory.open(path.parent.parent if is_checkpoint else path)
    try:
        config = run.config()
    except ConfigError as error:
        raise ContestantError(f"{run.path}: {error}") from error
    if is_checkpoint:
        found = path
    else:
        complete = checkpoints_in(run.checkpoints)
        if not complete:
            raise CheckpointError(f"{path} holds no complete checkpoint")
        found = complete[-1]
    tensors = load_checkpoint(found, config).learner.tensors
    weights = {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
    made = Contestant(label or config.name, config=config.policy, weights=weights)
    try:
        LearnedPolicy(config.policy).load(weights, epsilon=0.0)
    except RuntimeError as error:
        raise ContestantError(f"{found} does not hold the policy of its configuration: {error}") from error
    return made, config


def _script(path: Path) -> tuple[ScriptLine, ...]:
    try:
        lines = yaml.safe_load(path.read_text())
        if not isinstance(lines, list):
            raise ContestantError(f"script {path} must be a list of lines, got {type(lines).__name__}")
        return tuple(ScriptLine.model_validate(line) for line in lines)
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise ContestantError(f"script {path} cannot be used: {error}") from error
