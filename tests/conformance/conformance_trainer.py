"""Cases about a whole step of the reference's trainer: kinds ``trainer_step`` and ``sequence``.

The bookkeeping around the formulas (which slot is looked at, what is measured, what is kept from step to step) is that
of the reference, written down here from its description; the formulas are ours. Live episodes of ours are kept by
:mod:`esper_ray.simic.accounts`, which is different on purpose and has tests of its own.
"""

import reference_step as step
from conformance_steps import (
    GAMMA,
    components,
    drip_of,
    drip_record,
    drips_after,
    loss_config,
    reward_config,
    seed_of,
)
from reference_inputs import LossInputs, Seed, StepInputs

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.stages import COOLDOWN, Stage
from esper_ray.simic.rewards import bonuses, costs, shaping

CLIP, HISTORY = 10.0, 5
"""Of rewards, and of the accuracies that are remembered."""
PRUNABLE = ("GERMINATED", "TRAINING", "BLENDING", "HOLDING")


def effective_operation(given):
    """Effective operation: WAIT unless the operation is valid for its slot and not vetoed."""
    names = list(given["slots"])
    operation, slot = LifecycleOp[given["op"]], given["slots"][names[given["slot_index"]]]
    stage = None if slot is None else slot["stage"]
    steady = slot is None or slot.get("alpha_mode", "HOLD") == "HOLD"
    valid = {
        LifecycleOp.WAIT: True,
        LifecycleOp.GERMINATE: slot is None,
        LifecycleOp.FOSSILIZE: stage == "HOLDING",
        LifecycleOp.PRUNE: stage in PRUNABLE and steady and slot["age"] >= 5,
        LifecycleOp.SET_ALPHA_TARGET: stage in ("BLENDING", "HOLDING") and steady,
        LifecycleOp.ADVANCE: stage in PRUNABLE[:3],
    }
    return operation if valid[operation] and given["governor_approves"] else LifecycleOp.WAIT


def _is_active(slot):
    return slot is not None and Stage[slot["stage"]] not in COOLDOWN


def improvement(given):
    """Joint improvement of all measured seeds."""
    if given["all_disabled_acc"] is not None:
        return given["val_acc"] - given["all_disabled_acc"]
    without = given["leave_one_out_accs"].values()
    return given["val_acc"] - min(without) if without else None


def step_inputs(given, operation, config):
    name, kept = list(given["slots"])[given["slot_index"]], given["env_state"]
    slot, without = given["slots"][name], given["leave_one_out_accs"]
    occupied = {key: state for key, state in given["slots"].items() if state is not None}
    loads = {
        key: costs.Load(Stage[state["stage"]], state["alpha"], state["params"] + state.get("gate_params", 0))
        for key, state in occupied.items()
    }
    info = None
    if _is_active(slot):
        info = {
            **slot,
            "seed_age_epochs": slot["age"],
            "improvement_since_stage_start": slot.get("improvement_since_stage_start", 0.0),
            "counterfactual_total_improvement": improvement(given),
        }
    fossils = {key: state for key, state in occupied.items() if state["stage"] == "FOSSILIZED"}
    measured = {state["seed_id"]: given["val_acc"] - without[key] for key, state in fossils.items() if key in without}
    return StepInputs(
        operation=operation,
        epoch=given["epoch"],
        max_epochs=given["max_epochs"],
        host_parameters=given["host_params"],
        total_parameters=given["total_params"],
        accuracy=given["val_acc"],
        seed=seed_of(info),
        contribution=given["val_acc"] - without[name] if name in without else None,
        accuracy_at_germination=kept.get("acc_at_germination", {}).get(name),
        accuracy_change=given["acc_delta"],
        committed_accuracy=kept.get("committed_val_acc", given["val_acc"]),
        stable_accuracy=min(given["accuracy_history"][-min(config.escrow_stable_window, HISTORY) :])
        if config.mode == "escrow"
        else None,
        committed_parameters=sum(state["params"] + state.get("gate_params", 0) for state in fossils.values()),
        live_seeds=sum(state["stage"] not in ("FOSSILIZED", "PRUNED") for state in occupied.values()),
        committed_seeds=kept.get("seeds_fossilized", 0),
        contributing_committed_seeds=kept.get("contributing_fossilized", 0),
        effective_parameters=costs.effective_parameters(loads, given["host_params"], config.base_slot_rent_ratio),
        escrow_credit=kept.get("escrow_credit", {}).get(name, 0.0),
        slot_id=name,
        seed_id=None if slot is None else slot["seed_id"],
        drips=tuple(map(drip_of, kept.get("fossilized_drip_states", ()))),
        committed_contributions=measured,
    )


def clawback(given, config, gamma):
    """Deposits with interest of seeds that were never blended in."""
    if given["epoch"] != given["max_epochs"] or config.mode not in ("shaped", "escrow") or config.disable_pbrs:
        return 0.0
    deposit = shaping.shaping(0.0, shaping.stage_potential(Stage.GERMINATED), gamma, config.pbrs_weight)
    early = [s for s in given["slots"].values() if s is not None and s["stage"] in ("GERMINATED", "TRAINING")]
    return sum(deposit / gamma ** state["age"] for state in early)


def _triple(entry):
    """Interaction, beneficiary and epoch."""
    return tuple(entry.values()) if isinstance(entry, dict) else tuple(entry)


def hindsight(given, name, config, gamma):
    """Credit that a commitment queues for the seeds that helped it."""
    slot = given["slots"][name]
    gained, total = slot["val_acc"] - slot["initial_acc"], 0.0
    for key, ledger in given["env_state"].items():
        if "scaffold" not in key:
            continue
        for boost, beneficiary, epoch in (_triple(entry) for entries in ledger.values() for entry in entries):
            if beneficiary == name:
                weight = config.hindsight_credit_weight
                total += bonuses.hindsight_credit(boost, gained, weight) * gamma ** (given["epoch"] - epoch)
    return min(total, config.max_hindsight_credit)


def trainer_case(case):
    if case["inputs"]["reward_family"] == "loss":
        return _loss_step(case)
    config, gamma = reward_config(case["config"])
    given = case["inputs"]
    operation = effective_operation(given)
    x = step_inputs(given, operation, config)
    reward, kept = step.step_reward(x, config, gamma), given["env_state"]

    credits = {name: kept.get("escrow_credit", {}).get(name, 0.0) for name in given["slots"]}
    if reward.escrow is not None:
        credits[x.slot_id] = reward.escrow.balance
    forfeit = 0.0
    if config.mode == "escrow" and x.last:
        open_ = [n for n, s in given["slots"].items() if s is not None and s["stage"] not in ("FOSSILIZED", "PRUNED")]
        forfeit = sum(credits[name] for name in open_)
    returned = clawback(given, config, gamma)
    total = reward.total - forfeit - returned
    total += kept.get("pending_auto_prune_penalty", 0.0) + kept.get("pending_hindsight_credit", 0.0)

    record = components(x, reward, config) | {"total_reward": total}
    record["host_baseline_acc"] = given["leave_one_out_accs"].get(x.slot_id)
    if config.mode in ("shaped", "escrow"):
        record |= {"action_shaping": record["action_shaping"] - returned, "escrow_forfeit": -forfeit}
    committed = operation is LifecycleOp.FOSSILIZE and given["fossilize_handler_succeeds"]
    states = drips_after(kept.get("fossilized_drip_states", []), x, config)
    if committed and reward.drip is not None:
        states.append(drip_record(reward.drip, x))
    slot = given["slots"][x.slot_id]
    contributes = committed and slot["val_acc"] - slot["initial_acc"] >= config.min_fossilize_contribution
    return {
        "reward_raw": total,
        "reward_normalized_first_sample": max(-CLIP, min(CLIP, total)),
        "action_for_reward": operation.name,
        "effective_op_stored": operation.name,
        "action_success": operation is LifecycleOp[given["op"]],
        "components": record,
        "escrow_credit_after": {
            name: held if _is_active(given["slots"][name]) else 0.0 for name, held in credits.items()
        },
        "pending_auto_prune_after": 0.0,
        "pending_hindsight_after": hindsight(given, x.slot_id, config, gamma) if committed else 0.0,
        "seeds_fossilized_after": x.committed_seeds + committed,
        "contributing_fossilized_after": x.contributing_committed_seeds + contributes,
        "drip_states_after": states,
    }


def _loss_step(case):
    given = case["inputs"]
    operation = effective_operation(given)
    config = loss_config("cifar10", {"typical_loss_delta_std": 0.05}, {"cifar10": {}})
    slot = given["slots"][list(given["slots"])[given["slot_index"]]]
    x = LossInputs(
        epoch=given["epoch"],
        max_epochs=given["max_epochs"],
        change=given["loss_delta"],
        loss=given["val_loss"],
        host_parameters=given["host_params"],
        total_parameters=given["total_params"],
        seed=None if slot is None else seed_of({**slot, "seed_age_epochs": slot["age"]}),
    )
    total = step.loss_step_reward(x, config, GAMMA).total
    return {"reward_raw": total, "action_for_reward": operation.name, "effective_op_stored": operation.name}


def sequence_case(case):
    """A seed that blends in under ``escrow``, step by step: the ledger that follows from the formula."""
    config, gamma = reward_config(case["config"])
    if config.mode != "escrow":
        raise LookupError(f"no such sequence in mode {config.mode!r}")
    balance, rows = 0.0, []
    for t, given in enumerate(case["inputs"]["steps"]):
        contribution = given["seed_contribution"]
        seed = Seed(Stage.BLENDING, 3 + t, Stage.TRAINING, 10, 15 + t, improvement=contribution)
        x = StepInputs(
            operation=LifecycleOp.WAIT,
            epoch=60 + t,
            max_epochs=150,
            host_parameters=100_000,
            total_parameters=100_000,
            accuracy=given["stable_val_acc"],
            seed=seed,
            contribution=contribution,
            accuracy_at_germination=60.0,
            stable_accuracy=given["stable_val_acc"],
            escrow_credit=balance,
        )
        reward = step.step_reward(x, config, gamma)
        balance = reward.escrow.balance
        rows.append(
            {
                "t": t,
                **given,
                "credit_prev": reward.escrow.previous,
                "target": reward.escrow.target,
                "delta": reward.escrow.change,
                "credit_next": balance,
                "attribution": reward.of("attribution"),
                "blending_warning": reward.of("blending warning"),
                "pbrs": reward.of("shaping"),
                "reward": reward.total,
            }
        )
    return {"steps": rows}
