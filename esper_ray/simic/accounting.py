"""From one environment step to its ledger entries, after the fact and for every slot alike.

Everything is paid on the state that the action led to: a fossilisation only if it succeeded, shaping
over the potentials of all slots whichever slot the action named, the terminal term on the whole
episode.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.config import RewardConfig
from esper_ray.leyline.records import LedgerEntry, Measurement, Reports, SlotReport
from esper_ray.leyline.stages import AMPLIFIED, Stage
from esper_ray.simic import rewards
from esper_ray.simic.attribution import total_improvement


@dataclass(frozen=True, slots=True)
class Transition:
    """One environment step as the accounts see it."""

    step: int
    operation: LifecycleOp
    """What was carried out; WAIT if the action was illegal."""
    slot: int
    success: bool
    before: Reports
    """Slots at the time of the decision."""
    after: Reports
    """Slots at the end of the step."""
    known: Measurement
    """What was measured before the decision."""
    measured: Measurement
    """What was measured at the end of the step."""
    first_accuracy_pp: float
    """Validation accuracy at the beginning of the episode."""
    host_parameters: int
    truncated: bool
    terminated: bool


def settle(transition: Transition, config: RewardConfig, gamma: float) -> tuple[LedgerEntry, ...]:
    """The entries of one step under ``config.mode``, each caused by this step's action."""
    return tuple(
        LedgerEntry(source, amount, transition.step, transition.step, slot, explanation)
        for source, amount, slot, explanation in _MODES[config.mode](transition, config, gamma)
        if amount != 0.0
    )


Amount = tuple[str, float, str | None, str]


def _basic(t: Transition, config: RewardConfig, gamma: float) -> Iterator[Amount]:
    for before, after in zip(t.before, t.after, strict=True):
        held, holds = _potential(before), 0.0 if t.terminated else _potential(after)
        name = after or before
        if name is not None:
            amount = rewards.shaping(held, holds, gamma, config.pbrs_weight)
            yield "shaping", amount, name.slot_id, f"potential {held:.3g} -> {holds:.3g}"
    overhead = _effective_parameters(t.after, t.host_parameters)
    yield "rent", -rewards.rent(overhead, config), None, f"{overhead:.1f} effective extra parameters"
    seed = t.before[t.slot]
    if t.operation is LifecycleOp.FOSSILIZE and t.success and seed is not None:
        improvement, contribution = total_improvement(t.known), seed.measured.contribution_pp
        amount = rewards.fossilise_bonus(True, seed.ticks_in_stage, improvement, contribution, config)
        words = (
            f"contribution {_points(contribution)}, all seeds {_points(improvement)}, {seed.ticks_in_stage} epochs held"
        )
        yield "fossilise", amount, seed.slot_id, words
    if t.truncated:
        gain = t.measured.accuracy_pp - t.first_accuracy_pp
        yield "terminal", rewards.terminal_gain(gain, config), None, f"accuracy {gain:+.2f} points over the episode"


def _sparse(t: Transition, config: RewardConfig, gamma: float) -> Iterator[Amount]:
    if t.truncated:
        accuracy, parameters = committed_accuracy(t.after, t.measured), fossil_parameters(t.after)
        amount = rewards.sparse_terminal(accuracy, parameters, config)
        yield (
            "terminal",
            amount,
            None,
            f"committed accuracy {accuracy:.2f} points with {parameters} committed parameters",
        )


_MODES: dict[str, Callable[[Transition, RewardConfig, float], Iterator[Amount]]] = {"basic": _basic, "sparse": _sparse}


def committed_accuracy(reports: Reports, measured: Measurement) -> float:
    """Accuracy in percentage points with only fossilised seeds on."""
    fossils = {report.slot_id for report in reports if report is not None and report.stage is Stage.FOSSILIZED}
    return measured.accuracy_of(frozenset(fossils) & frozenset(measured.players))


def fossil_parameters(reports: Reports) -> int:
    """Parameters of the fossilised seeds."""
    return sum(report.parameters for report in reports if report is not None and report.stage is Stage.FOSSILIZED)


def _potential(report: SlotReport | None) -> float:
    return 0.0 if report is None else rewards.seed_potential(report.stage, report.ticks_in_stage)


def _effective_parameters(reports: Reports, host_parameters: int) -> float:
    amplified = [report for report in reports if report is not None and report.stage in AMPLIFIED]
    return sum(rewards.BASE_SLOT_RENT * host_parameters + report.alpha * report.parameters for report in amplified)


def _points(value: float | None) -> str:
    return "unmeasured" if value is None else f"{value:+.2f} points"
