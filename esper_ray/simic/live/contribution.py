"""The modes ``shaped`` and ``escrow`` over whole live episodes.

Both pay every seed at every step for what it contributes, ``shaped`` for as long as it does, ``escrow`` only for
changes. Other than in the single-slot formulas, seeds are never paid for more than they improve together.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.commitment import committed_players, committed_slots
from esper_ray.leyline.contributions import pair_interactions
from esper_ray.leyline.records import Estimate, SlotReport
from esper_ray.leyline.stages import COMMITTED, PRUNABLE, Stage
from esper_ray.simic.attribution import live_improvement
from esper_ray.simic.live.state import Boost, SlotAccount
from esper_ray.simic.live.step_context import StepContext, points
from esper_ray.simic.rewards import bonuses, costs, credit, operations, terminal


@dataclass(frozen=True, slots=True)
class PaymentClaim:
    """Claim of a seed to pay in a step."""

    amount: float
    doubt: float
    discount: float
    why: str


def shaped(b: StepContext) -> None:
    """Attribution of every seed, warnings, synergy, rents, and pay for operations."""
    live, committed = _improvements(b)
    seeds = [] if b.t.terminated else list(b.seeds())
    for improvement, kind in ((live, PRUNABLE), (committed, COMMITTED)):
        claims = {r.slot_id: _seed_claim(b, r, account, improvement) for r, account in seeds if r.stage in kind}
        share = _fair_share(b, claims, improvement)
        for report, _ in seeds:
            claim = claims.get(report.slot_id)
            if claim is not None:
                earned = _pay_claim(b, report.slot_id, claim, share)
                _warn_and_boost(b, report, live, earned, trusted=claim.discount >= 0.5)
    _charge_pruned(b)
    _surroundings(b)


def escrow(b: StepContext) -> None:
    """Changes of every seed's credit; uncommitted credit is taken back at the end."""
    live, _ = _improvements(b)
    for report, account in b.seeds():
        if report.stage in COMMITTED or b.t.terminated:
            continue
        fresh = report.measured.epochs_since_measured == 0
        contribution = report.measured.contribution_pp if fresh else None
        stable = b.accounts.stable_accuracy_pp(account, b.config.escrow_stable_window)
        doubt = 0.0
        if contribution is not None and live is not None:
            doubt = credit.suspicion(contribution, live, 1.0, b.config)
        gained = stable - account.accuracy_at_germination_pp
        move = credit.escrow_move(account.credit, contribution, gained, doubt, b.config)
        why = f"credit {move.previous:.3g} -> {move.balance:.3g}, worth {move.target:.3g}"
        b.pay("escrow", move.change, why, report.slot_id)
        b.pay("attribution", move.harm, f"contribution {points(contribution)}", report.slot_id)
        b.change(report.slot_id, credit=move.balance)
        _warn_and_boost(b, report, live, move.payout, trusted=True)
    _forfeit(b)
    _surroundings(b)


def _improvements(b: StepContext) -> tuple[float | None, float | None]:
    """Joint improvement of live and of committed seeds; the latter as last measured."""
    measured = b.t.measured
    committed_group = committed_players(committed_slots(b.t.after), measured)
    alone, none = measured.coalition(committed_group), measured.coalition(frozenset())
    committed = b.accounts.committed_improvement_pp
    if alone is not None and none is not None:
        committed = alone.accuracy_pp - none.accuracy_pp if committed_group else None
        b.remember_committed_improvement(committed)
    return live_improvement(measured, committed_group), committed


def _seed_claim(b: StepContext, report: SlotReport, account: SlotAccount, improvement: float | None) -> PaymentClaim:
    """Claim of a seed at the end of a step; empty if unmeasured."""
    contribution = report.measured.contribution_pp
    if contribution is None or improvement is None:
        return PaymentClaim(0.0, 0.0, 1.0, "unmeasured")
    gained = b.t.measured.accuracy_pp - account.accuracy_at_germination_pp
    return _claim(b, contribution, improvement, gained, account)


def _claim(
    b: StepContext, contribution: float, improvement: float, gained: float, account: SlotAccount
) -> PaymentClaim:
    """Claim of a seed with a measured ``contribution``.

    Args:
        improvement: by all seeds of its kind together.
        gained: accuracy since its germination, in percentage points.
    """
    config = b.config
    discount = credit.improvement_discount(improvement, config.attribution_sigmoid_steepness)
    doubt = credit.suspicion(contribution, improvement, discount, config)
    why = f"contribution {points(contribution)}, gained {points(gained)} since germination"
    if contribution < 0:
        return PaymentClaim(config.contribution_weight * contribution, doubt, discount, why)
    value = credit.attributed_value(gained, contribution, credit.COMBINATIONS[config.attribution_formula])
    timing = 1.0
    if not config.disable_timing_discount:
        warmup, floor = config.germination_warmup_epochs, config.germination_discount_floor
        timing = credit.timing_discount(account.germinated_step + 1, warmup, floor)
    return PaymentClaim(config.contribution_weight * value * discount * timing, doubt, discount, why)


def _fair_share(b: StepContext, claims: Mapping[str, PaymentClaim], improvement: float | None) -> float:
    """Paid share of positive claims, which caps them at the joint improvement."""
    claimed = sum(max(0.0, claim.amount) for claim in claims.values())
    earned = b.config.contribution_weight * max(0.0, improvement or 0.0)
    return 1.0 if claimed <= earned else earned / claimed


def _pay_claim(b: StepContext, slot: str, claim: PaymentClaim, share: float) -> float:
    """Book ``share`` of a positive claim or a whole negative one; the amount."""
    why = claim.why
    amount = claim.amount
    if amount > 0 and share < 1.0:
        amount *= share
        why += f", cut to {share:.0%}: together the seeds improve less"
    b.pay("attribution", amount, why, slot)
    b.pay("suspicion", claim.doubt, claim.why, slot)
    return amount + claim.doubt


def _warn_and_boost(b: StepContext, report: SlotReport, live: float | None, earned: float, *, trusted: bool) -> None:
    stage, ticks, slot = report.stage, report.ticks_in_stage, report.slot_id
    warning = operations.blending_warning(stage, ticks, live)
    b.pay("blending warning", warning, f"blending for {ticks} epochs while live seeds change {points(live)}", slot)
    b.pay("holding warning", operations.holding_warning(stage, ticks, earned), f"undecided for {ticks} epochs", slot)
    interaction = report.measured.interaction_pp
    if trusted and earned > 0 and interaction is not None:
        amount = bonuses.synergy(interaction, b.config.synergy_weight)
        b.pay("synergy", amount, f"interactions {points(interaction)}", slot)


def _charge_pruned(b: StepContext) -> None:
    """Charge the value of a pruned seed, or pay it if the seed was harmful."""
    seed = b.t.addressed
    if not b.t.did(LifecycleOp.PRUNE) or seed is None or seed.measured.contribution_pp is None:
        return
    account, improvement = b.accounts.slots[seed.slot_id], b.known_improvement()
    if improvement is None:
        return
    gained = b.t.known.accuracy_pp - account.accuracy_at_germination_pp
    claim = _claim(b, seed.measured.contribution_pp, improvement, gained, account)
    worth = min(claim.amount, b.config.contribution_weight * max(0.0, improvement))
    b.pay("attribution", -worth, f"pruned: {claim.why}", seed.slot_id)


def _forfeit(b: StepContext) -> None:
    """Take back the credit of a pruned seed, and at the end of uncommitted ones.

    The latter is caused by the last step at which they could have been committed, or, if there was none, by the last
    operation on them.
    """
    committed = committed_slots(b.t.after)
    for slot, account in b.accounts.slots.items():
        if account.credit == 0.0 or slot in committed:
            continue
        if account.pruned:
            b.pay("forfeit", -account.credit, "credit of a seed that was pruned", slot)
        elif b.t.last:
            cause = account.operated_step if account.held_step is None else account.held_step
            b.pay("forfeit", -account.credit, "credit of a seed that was not committed", slot, cause)
        else:
            continue
        b.change(slot, credit=0.0)


def _surroundings(b: StepContext) -> None:
    """Terms of ``escrow`` besides the credit."""
    t, config = b.t, b.config
    b.shape(config.pbrs_weight)
    overhead, (live, committed) = b.effective_parameters(), b.live_and_committed()
    rent = costs.logarithmic_rent(overhead, t.host_parameters, config)
    b.pay("rent", -rent, f"{overhead:.1f} effective extra parameters")
    changes = b.squared_alpha_changes()
    b.pay("shock", costs.shock(changes, config), f"squared changes of amplitude {changes:.3g}")
    b.pay("occupancy", -costs.occupancy(live, committed, config), f"{live} live and {committed} committed seeds")
    b.pay("upkeep", -costs.upkeep(committed, config), f"{committed} committed seeds")
    _operation(b)
    _hindsight(b)
    if t.truncated:
        accuracy = t.measured.accuracy_pp
        b.pay("terminal", terminal.accuracy_pay(accuracy, config), f"final accuracy {accuracy:.2f} points")


def _operation(b: StepContext) -> None:
    """Cost or pay of the operation, if it took effect."""
    t, config, seed = b.t, b.config, b.t.addressed
    if not t.success or t.operation is LifecycleOp.WAIT:
        return
    slot = t.slot_id
    b.pay("operation", operations.operation_cost(t.operation, config), t.operation.name, slot)
    if seed is None:
        return
    contribution, improvement = seed.measured.contribution_pp, b.known_improvement()
    evidence_text = f"contribution {points(contribution)}, live seeds together {points(improvement)}"
    if t.operation is LifecycleOp.FOSSILIZE:
        evidence = (seed.stage, seed.ticks_in_stage, contribution, improvement, config)
        why = f"{evidence_text}, {seed.ticks_in_stage} epochs held"
        b.pay("commitment", operations.commitment_pay(*evidence), why, slot)
        b.pay("commitment", operations.commitment_bonus(*evidence), "a commitment that counts", slot)
    elif t.operation is LifecycleOp.PRUNE:
        pay = operations.prune_pay(seed.stage, seed.age, contribution, config)
        b.pay("prune", pay, f"{seed.stage.name} at age {seed.age}, {evidence_text}", slot)
    elif t.operation is LifecycleOp.ADVANCE and seed.stage is Stage.TRAINING:
        b.pay("operation", config.advance_from_training_penalty, "out of TRAINING", slot)


def _hindsight(b: StepContext) -> None:
    """Record boosts between seeds; a commitment pays the boosting seeds, at the causal step."""
    _remember_boosts(b)
    seed = b.committed()
    if seed is None or seed.measured.contribution_pp is None:
        return
    gained, weight = seed.measured.contribution_pp, b.config.hindsight_credit_weight
    helped = b.accounts.slots[seed.slot_id].boosts
    pays = {helper: bonuses.hindsight_credit(boost.mean_pp, gained, weight) for helper, boost in helped.items()}
    total, most = sum(pays.values()), b.config.max_hindsight_credit
    share = 1.0 if total <= most else most / total
    for helper, boost in helped.items():
        why = f"{helper} helped {seed.slot_id} by {points(boost.mean_pp)}, which brings {points(gained)}"
        b.pay("hindsight", share * pays[helper], why, boost.slot, boost.cause_step)


def _remember_boosts(b: StepContext) -> None:
    accounts = b.accounts.slots
    for pair, interaction in pair_interactions(b.t.measured).items():
        if not isinstance(interaction, Estimate) or interaction.value_pp <= 0 or not pair <= accounts.keys():
            continue
        for slot in pair:
            (partner,) = pair - {slot}
            helper, boosts = accounts[partner], b.accounts.slots[slot].boosts
            old = boosts.get(helper.seed_id, Boost(partner, 0.0, 0, 0))
            new = Boost(partner, old.total_pp + interaction.value_pp, old.steps + 1, helper.operated_step)
            b.change(slot, boosts={**boosts, helper.seed_id: new})
