"""Policy of a session, from a name, a file, a bundle or an object."""

from pathlib import Path

from esper_policies.baselines import SchedulePolicy
from esper_policies.bundle import EXTENSION, PolicyBundle, load_bundle, pretrained_names, pretrained_path
from esper_policies.heuristic import HeuristicConfig, HeuristicPolicy
from esper_policies.scripts import BASELINES, SCRIPT_PREFIX, read_script
from esper_ray.leyline.config.base import unknown_name_message
from esper_ray.leyline.legality import Limits
from esper_ray.leyline.policy import Policy

GENERAL = tuple(name for name in BASELINES if name != "oracle")
"""Named policies that are not made for one task."""

MAX_FAILURES, MAX_FAILURES_IN_A_ROW = 2, 3
"""Pruned seeds after which the heuristic policy tries nothing more: in a slot, and at all."""
CONFIDENCE, LEAST_ROOM_PP, FAST_FALL = 2.0, 3.0, 0.2
"""What the heuristic policy asks of seeds and host where no size was asked for; see :class:`HeuristicConfig`."""
COOLDOWN, RAMP = 7, 3
"""Epochs of the cooldown after a pruned seed, and of the fastest ramp, by default."""

AnyPolicy = str | Path | PolicyBundle | Policy
"""Name, path of a bundle, bundle, or object with ``begin_episode`` and ``decide``."""


def bundle_of(policy: AnyPolicy) -> PolicyBundle | None:
    """The bundle that ``policy`` is or names; ``None`` for other policies.

    Raises:
        BundleError: if it cannot be read.
        ValueError: if there is no such policy.
    """
    if isinstance(policy, PolicyBundle):
        return policy
    if isinstance(policy, str | Path):
        name = str(policy)
        if name in GENERAL or name.startswith(SCRIPT_PREFIX):
            return None
        path = pretrained_path(name) or Path(name)
        if path.suffix == EXTENSION:
            return load_bundle(path)
        names = [*GENERAL, *pretrained_names()]
        message = unknown_name_message("policy", name, names)
        raise ValueError(f"{message}, schedule:FILE, or the path of a bundle (NAME{EXTENSION})")
    if not (callable(getattr(policy, "decide", None)) and callable(getattr(policy, "begin_episode", None))):
        raise ValueError(
            f"a policy is a name, a bundle or an object with begin_episode and decide, got a {type(policy).__name__}"
        )
    return None


def policy_of(
    policy: AnyPolicy, bundle: PolicyBundle | None, limits: Limits, epochs: int, device: str, *, aimed: bool = False
) -> Policy:
    """The policy under ``limits``.

    Args:
        bundle: bundle of :func:`bundle_of`.
        epochs: length of the growth; the patience of the heuristic policy follows from it.
        aimed: whether growth leads to a target.

    Raises:
        ScriptError: if the script cannot be read.
        ValueError: if the policy cannot act under these limits.
    """
    if bundle is not None:
        return bundle.player(device)
    if not isinstance(policy, str | Path):
        assert not isinstance(policy, PolicyBundle)
        return policy
    name = str(policy)
    if name.startswith(SCRIPT_PREFIX):
        return SchedulePolicy(limits, read_script(Path(name.removeprefix(SCRIPT_PREFIX))))
    if name == "heuristic":
        return HeuristicPolicy(limits, heuristic_of(epochs, aimed=aimed))
    return BASELINES[name](limits, "")


def training_epochs(epochs: int) -> int:
    """Default minimum number of epochs in TRAINING: a tenth of the growth, from 1 to 4."""
    return max(1, min(4, epochs // 10))


def heuristic_of(epochs: int, *, aimed: bool = False) -> HeuristicConfig:
    """Thresholds of the heuristic policy for a growth of ``epochs`` epochs: those of 40 epochs, shorter if it is.

    A seed in HOLDING is pruned only while another one could still come as far in its place. Later it stays and learns;
    the end of the growth commits or removes it. Without a target the question is whether growth pays at all: a seed
    must contribute more than its contribution is uncertain, none is born while the host learns fast alone, or has
    hardly anything left to gain, and those that were born live are pruned early and late.

    Args:
        aimed: whether growth leads to a target.
    """
    default = HeuristicConfig()
    patience = max(2, min(default.patience, epochs // 6))
    whole = training_epochs(epochs) + RAMP + patience
    return HeuristicConfig(
        first_epoch=min(default.first_epoch, epochs // 10),
        confidence=0.0 if aimed else CONFIDENCE,
        least_room_pp=0.0 if aimed else LEAST_ROOM_PP,
        fast_fall=None if aimed else FAST_FALL,
        max_failures=MAX_FAILURES,
        max_failures_in_a_row=None if aimed else MAX_FAILURES_IN_A_ROW,
        patience=patience,
        live_patience=whole if aimed else patience,
        last_pruning=epochs - COOLDOWN - whole,
        live_last_pruning=epochs - COOLDOWN - whole if aimed else None,
        training_patience=max(3, min(default.training_patience, epochs // 2)),
    )
