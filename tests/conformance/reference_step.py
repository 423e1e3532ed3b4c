"""The seven historical modes and the family ``loss`` for one step, seen from the one slot that the action names.

This is the reference's own level: the reward of a state, for the seed in the slot that was addressed, before the
operation is carried out. Live episodes are paid by :mod:`esper_ray.simic.accounts`, which uses the same terms for
every slot and after the fact. Equal to the recorded examples of the reference, see ``tests/conformance``.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from reference_inputs import Amount, LossInputs, Seed, StepInputs, StepReward, check_numbers

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.config.reward import RewardConfig
from esper_ray.leyline.stages import Stage
from esper_ray.simic.ledger import RewardError
from esper_ray.simic.rewards import bonuses, costs, credit, losses, operations, shaping, terminal
from esper_ray.simic.rewards.costs import SIMPLIFIED_COST
from esper_ray.simic.rewards.credit import EscrowMove


def step_reward(inputs: StepInputs, config: RewardConfig, gamma: float) -> StepReward:
    """The reward of one step under ``config.mode``.

    Raises:
        RewardError: if evidence is missing that the mode needs, or is not finite, or the mode exists for whole
            episodes only.
    """
    check_numbers(inputs)
    if config.mode not in _MODES:
        raise RewardError("episodes_only", f"mode {config.mode!r} has no reward for a single step of one slot")
    return _MODES[config.mode](inputs, config, gamma)


def doubt(inputs: StepInputs, config: RewardConfig, *, discounted: bool) -> float:
    """The suspicion that falls on the seed, at most 0, see :func:`~esper_ray.simic.rewards.credit.suspicion`.

    Raises:
        RewardError: if the seed was measured and the improvement by all seeds was not.
    """
    if inputs.contribution is None or inputs.seed is None:
        return 0.0
    improvement = inputs.seed.improvement
    if improvement is None:
        raise RewardError(
            "contribution_without_counterfactual",
            f"contribution {inputs.contribution} was measured, the improvement by all seeds together was not",
        )
    factor = credit.improvement_discount(improvement, config.attribution_sigmoid_steepness) if discounted else 1.0
    return credit.suspicion(inputs.contribution, improvement, factor, config)


def progress(inputs: StepInputs, accuracy: float) -> float | None:
    """Points from germination to ``accuracy``; ``None`` if no live seed was germinated."""
    return None if inputs.accuracy_at_germination is None else accuracy - inputs.accuracy_at_germination


def timing(inputs: StepInputs, config: RewardConfig) -> float:
    """Factor on the credit of the seed, by the epoch of its germination."""
    if inputs.seed is None or config.disable_timing_discount:
        return 1.0
    born = inputs.epoch - inputs.seed.age
    return credit.timing_discount(born, config.germination_warmup_epochs, config.germination_discount_floor)


def _attribution(inputs: StepInputs, config: RewardConfig) -> float:
    """Credit before the suspicion, negated for a prune."""
    seed, contribution, w = inputs.seed, inputs.contribution, config.contribution_weight
    amount = 0.0
    if seed is not None and seed.stage is Stage.FOSSILIZED:
        amount = 0.0
    elif contribution is not None and contribution < 0:
        amount = w * contribution
    elif contribution is not None:
        combine = credit.COMBINATIONS[config.attribution_formula]
        value = credit.attributed_value(progress(inputs, inputs.accuracy), contribution, combine)
        factor = 1.0
        if seed is not None:
            factor = credit.improvement_discount(seed.improvement, config.attribution_sigmoid_steepness)
        amount = w * value * factor * timing(inputs, config)
    elif seed is not None:
        amount = credit.proxy(seed.stage, seed.improvement_since_stage, config)
    if inputs.operation is LifecycleOp.FOSSILIZE and seed is not None and (seed.improvement or 0.0) < 0:
        amount = 0.0
    return -amount if inputs.operation is LifecycleOp.PRUNE else amount


def _shaped(inputs: StepInputs, config: RewardConfig, gamma: float) -> StepReward:
    seed = inputs.seed
    suspected = doubt(inputs, config, discounted=True)
    amounts = [Amount("attribution", _attribution(inputs, config))]
    if seed is None or seed.stage is not Stage.FOSSILIZED:
        amounts.append(Amount("suspicion", suspected))
    trusted = seed is not None and (
        inputs.contribution is None
        or credit.improvement_discount(seed.improvement, config.attribution_sigmoid_steepness) >= 0.5
    )
    earned = sum(amount for _, amount in amounts)
    return StepReward((*amounts, *_surroundings(inputs, config, gamma, earned, trusted=trusted)))


def _escrow(inputs: StepInputs, config: RewardConfig, gamma: float) -> StepReward:
    if inputs.stable_accuracy is None:
        raise RewardError("escrow_needs_stable_accuracy", "mode 'escrow' needs the stable accuracy, it is unmeasured")
    seed, kept = inputs.seed, inputs.escrow_credit
    suspected = doubt(inputs, config, discounted=False)
    if inputs.operation is LifecycleOp.PRUNE:
        move = EscrowMove(kept, 0.0, -kept)
    elif seed is not None and seed.stage is Stage.FOSSILIZED:
        move = EscrowMove(kept, kept, 0.0)
    else:
        gained = progress(inputs, inputs.stable_accuracy)
        move = credit.escrow_move(kept, inputs.contribution, gained, suspected, config)
    hurts = inputs.operation is LifecycleOp.FOSSILIZE and seed is not None and (seed.improvement or 0.0) < 0
    earned = 0.0 if hurts else move.payout
    rest = _surroundings(inputs, config, gamma, earned, trusted=seed is not None)
    return StepReward((Amount("attribution", earned), *rest), escrow=move)


def _surroundings(
    inputs: StepInputs, config: RewardConfig, gamma: float, earned: float, *, trusted: bool
) -> Iterator[Amount]:
    """Everything in ``shaped`` and ``escrow`` but the credit itself.

    Args:
        earned: the credit.
        trusted: whether the seed may earn synergy.
    """
    seed = inputs.seed
    if seed is not None:
        yield Amount("blending warning", operations.blending_warning(seed.stage, seed.ticks, seed.improvement))
        if inputs.operation not in (LifecycleOp.FOSSILIZE, LifecycleOp.PRUNE):
            yield Amount("holding warning", operations.holding_warning(seed.stage, seed.ticks, earned))
        if trusted and earned > 0:
            yield Amount("synergy", bonuses.synergy(seed.interaction_sum, config.synergy_weight))
        yield _bonus(seed, config, gamma)
    yield Amount("rent", -costs.logarithmic_rent(inputs.overhead, inputs.host_parameters, config))
    yield Amount("shock", costs.shock(inputs.squared_alpha_changes, config))
    yield Amount("occupancy", -costs.occupancy(inputs.live_seeds, inputs.committed_seeds, config))
    yield Amount("upkeep", -costs.upkeep(inputs.committed_seeds, config))
    yield Amount("operation", _operation(inputs, config, gamma))
    if inputs.last:
        yield Amount("terminal", terminal.accuracy_pay(inputs.accuracy, config))


def _operation(inputs: StepInputs, config: RewardConfig, gamma: float) -> float:
    seed, operation = inputs.seed, inputs.operation
    amount = operations.operation_cost(operation, config)
    if operation is LifecycleOp.GERMINATE:
        if seed is not None:
            amount += config.germinate_with_seed_penalty
        elif not config.disable_pbrs and not inputs.last:
            deposit = shaping.shaping(0.0, shaping.stage_potential(Stage.GERMINATED), gamma, config.pbrs_weight)
            warmup, floor = config.germination_warmup_epochs, config.germination_discount_floor
            early = 1.0 if config.disable_timing_discount else credit.timing_discount(inputs.epoch, warmup, floor)
            amount += deposit * early
    elif operation is LifecycleOp.FOSSILIZE:
        stage, ticks = (None, 0) if seed is None else (seed.stage, seed.ticks)
        improvement = None if seed is None else seed.improvement
        amount += operations.commitment_pay(stage, ticks, inputs.contribution, improvement, config)
        amount += operations.commitment_bonus(stage, ticks, inputs.contribution, improvement, config)
    elif operation is LifecycleOp.PRUNE:
        stage, age = (None, 0) if seed is None else (seed.stage, seed.age)
        amount += operations.prune_pay(stage, age, inputs.contribution, config) + _forfeit(seed, config)
    elif operation is LifecycleOp.ADVANCE and seed is not None and seed.stage is Stage.TRAINING:
        amount += config.advance_from_training_penalty
    return amount


def _bonus(seed: Seed, config: RewardConfig, gamma: float) -> Amount:
    if config.disable_pbrs:
        return Amount("shaping", 0.0)
    previous = seed.previous_stage, seed.previous_ticks
    return Amount("shaping", shaping.stage_bonus(seed.stage, seed.ticks, *previous, gamma, config))


def _forfeit(seed: Seed | None, config: RewardConfig) -> float:
    """Negated potential of a removed seed."""
    if seed is None or config.disable_pbrs:
        return 0.0
    return -config.pbrs_weight * shaping.seed_potential(seed.stage, seed.ticks, config)


def _basic(inputs: StepInputs, config: RewardConfig, gamma: float) -> StepReward:
    seed, amounts, started = inputs.seed, [], None
    if seed is not None:
        pruned = inputs.operation is LifecycleOp.PRUNE
        amounts.append(Amount("shaping", _forfeit(seed, config)) if pruned else _bonus(seed, config, gamma))
    amounts.append(Amount("rent", -costs.linear_rent(inputs.overhead, config) if inputs.host_parameters > 0 else 0.0))
    if inputs.operation is LifecycleOp.FOSSILIZE and seed is not None:
        pay = operations.basic_commitment_pay(seed.stage, seed.ticks, inputs.contribution, seed.improvement, config)
        counted = operations.is_commitment_counted(inputs.contribution, seed.improvement, config)
        drips = config.mode == "basic_plus" and config.drip_fraction > 0
        if drips and counted and seed.stage is Stage.HOLDING and inputs.slot_id and inputs.seed_id:
            epochs_left = inputs.max_epochs - inputs.epoch
            started = bonuses.deferred_bonus(inputs.slot_id, inputs.seed_id, pay, epochs_left, config)
            pay *= 1.0 - config.drip_fraction
        amounts.append(Amount("commitment", pay))
    if inputs.last:
        amounts.append(Amount("terminal", terminal.gain_pay(inputs.accuracy_change, config)))
    amounts += [Amount("drip", amount) for amount in drip_payments(inputs, config)]
    return StepReward(tuple(amounts), started)


def drip_payments(inputs: StepInputs, config: RewardConfig) -> list[float]:
    """Payment of each running drip in this step.

    Raises:
        RewardError: if the contribution of a committed seed is unmeasured.
    """
    if not inputs.drips:
        return []
    measured = inputs.committed_contributions
    if measured is None:
        raise RewardError("drip_measurements_absent", f"{len(inputs.drips)} drips run, nothing committed was measured")
    missing = [drip.seed_id for drip in inputs.drips if drip.seed_id not in measured]
    if missing:
        raise RewardError("drip_seed_not_measured", f"a drip runs for seed {missing[0]!r}, which was not measured")
    most, ratio = config.max_drip_per_epoch, config.negative_drip_ratio
    return [bonuses.epoch_drip(drip.scale, measured[drip.seed_id], most, ratio) for drip in inputs.drips]


def _sparse(inputs: StepInputs, config: RewardConfig, gamma: float) -> StepReward:
    if inputs.committed_accuracy is None:
        raise RewardError("committed_accuracy_required", f"mode {config.mode!r} needs the committed accuracy")
    if not inputs.last:
        return StepReward(())
    pay = terminal.committed_pay(inputs.committed_accuracy, inputs.committed_parameters, config)
    return StepReward((Amount("terminal", pay),))


def _minimal(inputs: StepInputs, config: RewardConfig, gamma: float) -> StepReward:
    amounts = _sparse(inputs, config, gamma).amounts
    seed = inputs.seed
    if inputs.operation is LifecycleOp.PRUNE and seed is not None and seed.age < config.early_prune_threshold:
        amounts = (*amounts, Amount("operation", config.early_prune_penalty))
    return StepReward(amounts)


def _simplified(inputs: StepInputs, config: RewardConfig, gamma: float) -> StepReward:
    amounts = [] if inputs.seed is None else [_bonus(inputs.seed, config, gamma)]
    if inputs.operation is not LifecycleOp.WAIT:
        amounts.append(Amount("operation", SIMPLIFIED_COST))
    if inputs.last:
        pay = terminal.simplified_pay(inputs.accuracy, inputs.contributing_committed_seeds, config)
        amounts.append(Amount("terminal", pay))
    return StepReward(tuple(amounts))


_MODES: Mapping[str, Callable[[StepInputs, RewardConfig, float], StepReward]] = MappingProxyType(
    {
        "shaped": _shaped,
        "escrow": _escrow,
        "basic": _basic,
        "basic_plus": _basic,
        "sparse": _sparse,
        "minimal": _minimal,
        "simplified": _simplified,
    }
)


def loss_step_reward(inputs: LossInputs, config: RewardConfig, gamma: float) -> StepReward:
    """The reward of one step in the family ``loss``.

    Raises:
        RewardError: if a loss is not finite.
    """
    check_numbers(inputs)
    terms, seed = config.loss, inputs.seed
    amounts = [Amount("loss", losses.change_pay(inputs.change, terms))]
    if seed is None or seed.age >= terms.grace_epochs:
        overhead = inputs.total_parameters - inputs.host_parameters
        amounts.append(Amount("rent", -losses.rent(overhead, inputs.host_parameters, terms)))
    if seed is not None:
        before, after = map(shaping.stage_potential, (seed.previous_stage, seed.stage))
        amounts.append(Amount("shaping", shaping.shaping(before, after, gamma, terms.stage_potential_weight)))
    if inputs.epoch == inputs.max_epochs:
        amounts.append(Amount("terminal", losses.final_pay(inputs.loss, terms)))
    return StepReward(tuple(amounts))
