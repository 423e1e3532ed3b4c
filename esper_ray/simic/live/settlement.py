"""The mode ``settlement``: pays changes of committed, priced value against a control.

The value of a network is its validation accuracy with only committed seeds active, as a fraction, minus the
price of their parameters. The accuracy is relative to the one that the same host reaches without growth
after as many epochs, so that nothing is paid for what training alone brings. What is left is

    host (committed seeds off) - control   +   sum over committed seeds of (Shapley value - price)

each averaged over the last few epochs, since the accuracy of single epochs is a lottery. Every part is paid by its
change from step to step, so that the sum of an episode's rewards is the value at its end; under discounting,
early and lasting value is worth slightly more. A seed's part vests linearly over some epochs after its
commitment,
and what has not vested by the end is not paid. So holding a seed without end earns nothing, and a later
commitment of a useful seed never earns more.
"""

from collections.abc import Sequence
from statistics import fmean

from esper_ray.leyline.commitment import committed_players, committed_slots
from esper_ray.leyline.records import Estimate
from esper_ray.simic.attribution import shapley_values
from esper_ray.simic.live.step_context import StepContext
from esper_ray.simic.rewards.terminal import priced_value


def settlement(b: StepContext) -> None:
    """Pay for changes of value."""
    assert b.control_pp is not None
    committed = committed_players(committed_slots(b.t.after), b.t.measured)
    none = b.t.measured.coalition(frozenset())
    alone = b.t.measured.accuracy_pp if not b.t.measured.players else None if none is None else none.accuracy_pp
    values = shapley_values(b.t.measured, committed)
    for slot in b.accounts.slots.keys() - committed:
        _write_off(b, slot)
    if alone is None or not all(isinstance(value, Estimate) for value in values.values()):
        return  # not measured in this step; the changes are paid when they are
    _settle_host(b, alone, b.control_pp)
    for report in b.t.after:
        value = None if report is None else values.get(report.slot_id)
        if report is not None and isinstance(value, Estimate):
            _settle_seed(b, report.slot_id, value.value_pp, report.parameters)


def vested(epochs: int, vesting_epochs: int) -> float:
    """Vested share of a seed's value after its commitment, in [0, 1]."""
    return min(1.0, epochs / vesting_epochs)


def _settle_host(b: StepContext, accuracy: float, control: float) -> None:
    config = b.config.settlement
    gaps = (*b.accounts.host_gaps_pp, accuracy - control)[-config.window_epochs :]
    worth = config.scale * fmean(gaps) / 100.0
    why = f"host alone {accuracy:.2f} points, without growth {control:.2f}, {_mean_of(gaps)} {fmean(gaps):+.2f}"
    b.pay("host", worth - b.accounts.host_worth, why)
    b.remember_host(gaps, worth)


def _settle_seed(b: StepContext, slot: str, value_pp: float, parameters: int) -> None:
    """Book a committed seed: vesting is caused by its commitment, changes by this step."""
    account, config = b.accounts.slots[slot], b.config.settlement
    assert account.committed_step is not None
    values = (*account.values_pp, value_pp)[-config.window_epochs :]
    value = config.scale * priced_value(fmean(values), parameters, b.config)
    share = vested(b.t.epoch - account.committed_step, config.vesting_epochs)
    why = f"Shapley value {value_pp:+.2f} points, {_mean_of(values)} {fmean(values):+.2f}, {parameters} parameters"
    b.pay("revaluation", account.vested * value - account.worth, why, slot)
    b.pay("vesting", (share - account.vested) * value, f"{share:.0%} vested, {why}", slot, account.committed_step)
    b.change(slot, values_pp=values, worth=share * value, vested=share)


def _mean_of(values: Sequence[float]) -> str:
    return "mean of 1 epoch" if len(values) == 1 else f"mean of {len(values)} epochs"


def _write_off(b: StepContext, slot: str) -> None:
    """Write off a seed that is not, or no longer, committed."""
    b.pay("revaluation", -b.accounts.slots[slot].worth, "no longer committed", slot)
    b.change(slot, worth=0.0, vested=0.0, values_pp=())
