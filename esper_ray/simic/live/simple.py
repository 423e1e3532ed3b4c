"""Live rewards of ``basic``, ``basic_plus``, ``simplified``, ``sparse``, ``minimal`` and the family ``loss``."""

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.commitment import committed_accuracy_pp, committed_parameters, committed_slots
from esper_ray.leyline.records import SlotReport
from esper_ray.leyline.stages import COMMITTED, WITH_MODULE
from esper_ray.simic.live.step_context import StepContext, points
from esper_ray.simic.rewards import bonuses, costs, losses, operations, terminal
from esper_ray.simic.rewards.costs import SIMPLIFIED_COST


def basic(b: StepContext) -> None:
    """Shaping, linear rent, commitments, and the accuracy gained in the episode."""
    b.shape(b.config.pbrs_weight)
    overhead = b.effective_parameters()
    b.pay("rent", -costs.linear_rent(overhead, b.config), f"{overhead:.1f} effective extra parameters")
    seed = b.committed()
    if seed is not None:
        b.pay("commitment", _commitment(b, seed), _evidence(b, seed), seed.slot_id)
    _gain(b)


def basic_plus(b: StepContext) -> None:
    """``basic`` with a share of each commitment paid per epoch while the seed contributes.

    Those later parts are caused by the step of the commitment. A seed that was not measured is paid nothing.
    """
    config = b.config
    for report, account in b.seeds():
        contribution = report.measured.contribution_pp
        if report.stage in COMMITTED and account.drip_scale and contribution is not None:
            limits = config.max_drip_per_epoch, config.negative_drip_ratio
            amount = bonuses.epoch_drip(account.drip_scale, contribution, *limits)
            b.pay("drip", amount, f"contribution {points(contribution)}", report.slot_id, account.committed_step)
    basic(b)
    seed = b.committed()
    if seed is None:
        return
    if operations.is_commitment_counted(seed.measured.contribution_pp, b.known_improvement(), config):
        epochs_left = b.t.max_steps - b.t.epoch
        later = bonuses.deferred_bonus(seed.slot_id, seed.seed_id, _commitment(b, seed), epochs_left, config)
        why = f"{config.drip_fraction:.0%} of the commitment is paid later, as long as the seed contributes"
        b.pay("drip", -later.pool, why, seed.slot_id)
        b.change(seed.slot_id, drip_scale=later.scale)


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


def _commitment(b: StepContext, seed: SlotReport) -> float:
    contribution, improvement = seed.measured.contribution_pp, b.known_improvement()
    return operations.basic_commitment_pay(seed.stage, seed.ticks_in_stage, contribution, improvement, b.config)


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
