"""Cases about one step of one slot: kinds ``reward`` and ``loss_reward``."""

import reference_step as step
from reference_inputs import LossInputs, Seed, StepInputs

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.config.reward import LossRewardConfig, RewardConfig
from esper_ray.leyline.stages import Stage
from esper_ray.simic.ledger import RewardError
from esper_ray.simic.rewards import costs, credit
from esper_ray.simic.rewards.bonuses import Drip

GAMMA = 0.995
"""The one discount of the run that the cases belong to."""
REASONS = {
    "reward.param_budget": "param_budget_not_positive",
    "reward.rent_host_params_floor": "rent_floor_below_one",
}
"""What the record calls values that our configuration refuses."""
REFUSED = "refused"
"""Of other values that our configuration refuses; it does not say by which of the record's names."""
BUDGETED = ("basic", "basic_plus", "sparse", "minimal")
"""Modes that look at the budget."""


def reward_config(case_config):
    """The configuration of a case, and its discount.

    Raises:
        RewardError: with the record's name of the reason, if a value is not allowed.
    """
    settings = dict(case_config)
    gamma = settings.pop("gamma", GAMMA)
    mode = settings.pop("reward_mode", "shaped")
    if mode in ("shaped", "escrow") and gamma != GAMMA:
        raise RewardError("pbrs_gamma_mismatch", f"the run discounts by {GAMMA}, the potentials by {gamma}")
    if mode == "basic" and settings.get("drip_fraction"):
        mode = "basic_plus"  # the reference's basic pays drips too if a share is given
    if mode == "basic_plus" and settings.get("drip_fraction") == 0.0:
        del settings["drip_fraction"]  # which it cannot be in the reference: 0 is replaced by 0.7
    if mode not in BUDGETED and settings.get("param_budget", 1) <= 0:
        del settings["param_budget"]  # which nothing reads then; ours is refused in any mode
    try:
        return RewardConfig(mode=mode, **settings), gamma
    except ValueError as error:
        key = f"reward.{error.errors()[0]['loc'][0]}" if error.errors()[0]["loc"] else "reward"
        raise RewardError(REASONS.get(key, REFUSED), str(error)) from error


def seed_of(info):
    if info is None:
        return None
    return Seed(
        stage=Stage[info["stage"]],
        ticks=info["epochs_in_stage"],
        previous_stage=Stage[info["previous_stage"]],
        previous_ticks=info["previous_epochs_in_stage"],
        age=info["seed_age_epochs"],
        improvement_since_stage=info.get("improvement_since_stage_start"),
        improvement=info.get("counterfactual_total_improvement"),
        interaction_sum=info.get("interaction_sum") or 0.0,
    )


def drip_of(state):
    return Drip(state["slot_id"], state["seed_id"], state["drip_total"], state["drip_scale"])


def inputs_of(given):
    drips = given.get("fossilized_drip_states") or ()
    return StepInputs(
        operation=LifecycleOp[given["action"]],
        epoch=given["epoch"],
        max_epochs=given["max_epochs"],
        host_parameters=given["host_params"],
        total_parameters=given["total_params"],
        accuracy=given["val_acc"],
        seed=seed_of(given["seed_info"]),
        contribution=given["seed_contribution"],
        accuracy_at_germination=given["acc_at_germination"],
        accuracy_change=given["acc_delta"],
        committed_accuracy=given["committed_val_acc"],
        stable_accuracy=given["stable_val_acc"],
        committed_parameters=given["fossilized_seed_params"],
        live_seeds=given["n_active_seeds"],
        committed_seeds=given["num_fossilized_seeds"],
        contributing_committed_seeds=given["num_contributing_fossilized"],
        effective_parameters=given["effective_seed_params"],
        squared_alpha_changes=given["alpha_delta_sq_sum"],
        escrow_credit=given["escrow_credit_prev"],
        slot_id=given["slot_id"],
        seed_id=given["seed_id"],
        drips=tuple(map(drip_of, drips)),
        committed_contributions=given["fossilized_contributions"],
    )


NEVER_SET = ("stage_bonus", "drip_immediate_bonus", "drip_deferred_total", "num_drip_sources", "drip_this_epoch")
"""Components that ``shaped`` and ``escrow`` have a place for and never fill."""


def components(x, reward, config):
    """Components of a step in the names of the record, for the terms of the mode."""
    seed = x.seed
    record = {
        "base_acc_delta": x.accuracy_change,
        "action_name": x.operation.name,
        "seed_stage": None if seed is None else int(seed.stage),
        "epoch": x.epoch,
        "val_acc": x.accuracy,
        "total_reward": reward.total,
    }
    if config.mode in ("basic", "basic_plus"):
        record |= {
            "compute_rent": reward.of("rent"),
            "growth_ratio": costs.growth(x.overhead, x.host_parameters, config),
            "pbrs_bonus": reward.of("shaping"),
            "fossilize_terminal_bonus": reward.of("commitment"),
            "drip_this_epoch": reward.of("drip"),
        }
    if config.mode not in ("shaped", "escrow"):
        return record
    shaped = config.mode == "shaped"
    steepness, improvement = config.attribution_sigmoid_steepness, None if seed is None else seed.improvement
    measured = x.contribution is not None and seed is not None
    record |= {
        "seed_contribution": x.contribution,
        "bounded_attribution": reward.of("attribution", "suspicion"),
        "progress_since_germination": step.progress(x, x.accuracy if shaped else x.stable_accuracy),
        "stable_val_acc": x.stable_accuracy if not shaped else None,
        "attribution_discount": credit.improvement_discount(improvement, steepness) if shaped and measured else 1.0,
        "ratio_penalty": step.doubt(x, config, discounted=shaped),
        "escrow_credit_prev": x.escrow_credit,
        "compute_rent": reward.of("rent"),
        "alpha_shock": reward.of("shock"),
        "blending_warning": reward.of("blending warning"),
        "holding_warning": reward.of("holding warning"),
        "pbrs_bonus": reward.of("shaping"),
        "synergy_bonus": reward.of("synergy"),
        "action_shaping": reward.of("operation"),
        "terminal_bonus": reward.of("terminal"),
        "occupancy_rent": -reward.of("occupancy"),
        "fossilized_rent": -reward.of("upkeep"),
        "num_fossilized_seeds": x.committed_seeds,
        "num_contributing_fossilized": x.contributing_committed_seeds,
        "n_active_seeds": x.live_seeds,
        "acc_at_germination": x.accuracy_at_germination,
        "growth_ratio": costs.growth(x.overhead, x.host_parameters, config) if x.host_parameters else 0.0,
    }
    early = shaped and measured and x.contribution >= 0
    record |= dict.fromkeys(NEVER_SET, 0.0) | {"timing_discount": step.timing(x, config) if early else 1.0}
    if reward.escrow is not None:
        record |= {
            "escrow_credit_target": reward.escrow.target,
            "escrow_delta": reward.escrow.change,
            "escrow_credit_next": reward.escrow.balance,
        }
    return record


def drip_record(drip, x):
    if drip is None:
        return None
    return {
        "seed_id": drip.seed_id,
        "slot_id": drip.slot_id,
        "fossilize_epoch": x.epoch,
        "max_epochs": x.max_epochs,
        "drip_total": drip.pool,
        "drip_scale": drip.scale,
        "drip_paid": 0.0,
    }


def drips_after(states, x, config):
    paid = step.drip_payments(x, config)
    return [dict(state, drip_paid=state["drip_paid"] + more) for state, more in zip(states, paid, strict=True)]


def reward_case(case):
    config, gamma = reward_config(case["config"])
    x = inputs_of(case["inputs"])
    reward = step.step_reward(x, config, gamma)
    found = {"reward": reward.total, "components": components(x, reward, config)}
    if "new_drip_state" in case["outputs"]:
        found["new_drip_state"] = drip_record(reward.drip, x)
    if "drip_states_after" in case["outputs"]:
        found["drip_states_after"] = drips_after(case["inputs"]["fossilized_drip_states"] or [], x, config)
    return found


LOSS_TERMS = {"loss": "loss_delta_term", "rent": "rent_term", "shaping": "pbrs_term", "terminal": "terminal_term"}


def loss_config(preset, changes, presets):
    return RewardConfig(family="loss", loss=LossRewardConfig(**{**presets.get(preset, {}), **changes}))


def loss_case(case, presets):
    given = case["inputs"]
    seed = given["seed_info"]
    if seed is not None:
        seed = {"improvement_since_stage_start": 0.0, "previous_epochs_in_stage": 0, **seed}
    x = LossInputs(
        epoch=given["epoch"],
        max_epochs=given["max_epochs"],
        change=given["loss_delta"],
        loss=given["val_loss"],
        host_parameters=given["host_params"],
        total_parameters=given["total_params"],
        seed=seed_of(seed),
    )
    reward = step.loss_step_reward(x, loss_config(case["preset"], case["config"], presets), GAMMA)
    return {"reward": reward.total, "components": {theirs: reward.of(ours) for ours, theirs in LOSS_TERMS.items()}}
