"""Live rewards of ``basic``, ``basic_plus``, ``simplified``, ``sparse``, ``minimal`` and the family ``loss``."""

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.commitment import committed_accuracy_pp, committed_parameters, committed_slots
from esper_ray.leyline.records import SlotReport
from esper_ray.leyline.stages import COMMITTED, WITH_MODULE
from esper_ray.simic.live.step_context import StepContext, points
from esper_ray.simic.rewards import bonuses, costs, losses, operations, terminal
from esper_ray.simic.rewards.costs import SIMPLIFIED_COST


def basic(b: StepContext) -> None:
    """Shaping, linear rent, commitments, and the accuracy gained in the episode.

    A commitment is paid by what it changes: by the accuracy with the committed seeds alone, after it minus before it.
    The entries of an episode thus add up to the joint worth of its committed seeds, in any order, where a share
    for each seed's own contribution would pay seeds that help only together for the whole of it, each.
    """
    b.shape(b.config.pbrs_weight)
    overhead = b.effective_parameters()
    b.pay("rent", -costs.linear_rent(overhead, b.config), f"{overhead:.1f} effective extra parameters")
    seed = b.committed()
    if seed is not None:
        change = b.committed_change()
        why = f"committed seeds {points(change)}, {seed.ticks_in_stage} epochs held"
        b.pay("commitment", _commitment_change(b, seed), why, seed.slot_id)
        b.pay("operation", _fixed_commitment_pay(b, seed), _evidence(b, seed), seed.slot_id)
    _gain(b)


def basic_plus(b: StepContext) -> None:
    """``basic`` with a share of each commitment paid per epoch while the seed contributes.

    Those later parts are caused by the step of the commitment, and are together no more than what was withheld. A seed
    that was not measured is paid nothing.
    """
    config = b.config
    for report, account in b.seeds():
        contribution = report.measured.contribution_pp
        if report.stage in COMMITTED and account.drip_scale and contribution is not None:
            limits = config.max_drip_per_epoch, config.negative_drip_ratio
            amount = min(account.drip_left, bonuses.epoch_drip(account.drip_scale, contribution, *limits))
            b.pay("drip", amount, f"contribution {points(contribution)}", report.slot_id, account.committed_step)
            b.change(report.slot_id, drip_left=account.drip_left - amount)
    basic(b)
    seed = b.committed()
    if seed is None:
        return
    bonus = _commitment_change(b, seed) + _fixed_commitment_pay(b, seed)
    counted = operations.is_commitment_counted(seed.measured.contribution_pp, b.known_improvement(), config)
    if counted and bonus > 0:
        epochs_left = b.t.max_steps - b.t.epoch
        later = bonuses.deferred_bonus(seed.slot_id, seed.seed_id, bonus, epochs_left, config)
        why = f"{config.drip_fraction:.0%} of the commitment is paid later, as long as the seed contributes"
        b.pay("drip", -later.pool, why, seed.slot_id)
        b.change(seed.slot_id, drip_scale=later.scale, drip_left=later.pool)


def simplified(b: StepContext) -> None:
    """Shaping, a cost of operations, final accuracy, and contributing committed seeds.

    Commitments are free, since a cost would reward their delay under discounting.
    """
    b.shape(b.config.pbrs_weight)
    t = b.t
    if t.success and t.operation not in (LifecycleOp.WAIT, LifecycleOp.FOSSILIZE):
        b.pay("operation", SIMPLIFIED_COST, t.operation.name, t.slot_id)
    if t.truncated:
        contributions = [r.measured.contribution_pp for r in t.after if r is not None and r.stage in COMMITTED]
        least = b.config.min_fossilize_contribution
        contributing = sum(contribution is not None and contribution >= least for contribution in contributions)
        amount = terminal.simplified_pay(t.measured.accuracy_pp, contributing, b.config)
        b.pay("terminal", amount, f"accuracy {t.measured.accuracy_pp:.2f} points, {contributing} contributing seeds")


def sparse(b: StepContext) -> None:
    """Committed accuracy and its price, at the end only."""
    if not b.t.truncated:
        return
    accuracy = committed_accuracy_pp(committed_slots(b.t.after), b.t.measured)
    parameters = committed_parameters(b.t.after)
    why = f"committed accuracy {accuracy:.2f} points with {parameters} committed parameters"
    b.pay("terminal", terminal.committed_pay(accuracy, parameters, b.config), why)


def minimal(b: StepContext) -> None:
    """``sparse``, and a penalty for pruning early."""
    sparse(b)
    seed = b.t.addressed
    if b.t.did(LifecycleOp.PRUNE) and seed is not None and seed.age < b.config.early_prune_threshold:
        b.pay("prune", b.config.early_prune_penalty, f"pruned at age {seed.age}", seed.slot_id)


def _commitment_change(b: StepContext, seed: SlotReport) -> float:
    """Pay for the change of committed accuracy; 0 if unmeasured.

    A gain is paid by the share of the required holding epochs, a loss is charged in full. Else an early loss and its
    later recovery would add up to a gain.
    """
    change = b.committed_change() or 0.0
    share = operations.maturity(seed.ticks_in_stage, b.config) if change > 0 else 1.0
    return b.config.basic_contribution_scale * change * share


def _fixed_commitment_pay(b: StepContext, seed: SlotReport) -> float:
    """Pay for a commitment as an operation: a fixed bonus if it counts, otherwise a penalty."""
    contribution, improvement = seed.measured.contribution_pp, b.known_improvement()
    fixed = b.config.model_copy(update={"basic_contribution_scale": 0.0})
    return operations.basic_commitment_pay(seed.stage, seed.ticks_in_stage, contribution, improvement, fixed)


def _evidence(b: StepContext, seed: SlotReport) -> str:
    together = points(b.known_improvement())
    contribution = points(seed.measured.contribution_pp)
    return f"contribution {contribution}, live seeds together {together}, {seed.ticks_in_stage} epochs held"


def _gain(b: StepContext) -> None:
    if b.t.truncated:
        gain = b.t.measured.accuracy_pp - b.accounts.accuracies_pp[0]
        b.pay("terminal", terminal.gain_pay(gain, b.config), f"accuracy {gain:+.2f} points over the episode")


def loss(b: StepContext) -> None:
    """Improvement of the loss, rent, shaping, and the final loss."""
    t, config = b.t, b.config.loss
    if not t.terminated:
        change = t.measured.loss - t.known.loss
        b.pay("loss", losses.change_pay(change, config), f"validation loss {t.known.loss:.4f} -> {t.measured.loss:.4f}")
    settled = [r for r in t.after if r is not None and r.stage in WITH_MODULE and r.age >= config.grace_epochs]
    overhead = sum(report.parameters for report in settled)
    b.pay("rent", -losses.rent(overhead, t.host_parameters, config), f"{overhead} extra parameters")
    b.shape(config.stage_potential_weight, dwell=False)
    if t.truncated:
        b.pay("terminal", losses.final_pay(t.measured.loss, config), f"final loss {t.measured.loss:.4f}")
