"""Cases about single formulas: kinds ``helper``, ``attribution`` and ``normalizer``."""

from itertools import pairwise
from math import sqrt

import numpy as np
from conformance_steps import GAMMA

from esper_ray.kasmina.measurement.coalition_sampling import EXACT_PLAYERS
from esper_ray.leyline import contributions
from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.config.reward import RewardConfig
from esper_ray.leyline.records import Coalition, Estimate, Measurement
from esper_ray.leyline.stages import Stage
from esper_ray.simic import attribution
from esper_ray.simic.rewards import bonuses, costs, credit, operations, shaping
from esper_ray.simic.running_moments import Moments


def _timing(given, constants):
    return {
        "value": credit.timing_discount(given["germination_epoch"], given["warmup_epochs"], given["discount_floor"])
    }


def _attributed(given, constants):
    combine = credit.COMBINATIONS[given["formula"]]
    return {"value": combine(given["progress"], given["seed_contribution"])}


def _synergy(given, constants):
    return {"value": bonuses.synergy(given["interaction_sum"], given["synergy_weight"])}


def _hindsight(given, constants):
    return {
        "value": bonuses.hindsight_credit(
            given["boost_given"], given["beneficiary_improvement"], given["credit_weight"]
        )
    }


def _drip(given, constants):
    limits = given["max_drip"], given["negative_drip_ratio"]
    return {"value": bonuses.epoch_drip(given["drip_scale"], given["contribution"], *limits)}


def _potential(given, constants):
    if not given["has_active_seed"]:
        return {"value": 0.0}
    return {"value": shaping.seed_potential(Stage(given["seed_stage"]), given["seed_epochs_in_stage"], RewardConfig())}


NATURAL = (Stage.DORMANT, Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED)
TABLE_TICKS, TABLE_PREVIOUS_TICKS = (0, 1, 2, 6, 7, 8, 20), 4


def _table(given, constants):
    """Stage bonuses for some dwell times, after the natural predecessor of each stage."""
    names = ("pbrs_weight", "epoch_progress_bonus", "max_progress_bonus")
    config = RewardConfig(**{name: given[name] for name in names})
    rows = []
    for previous, stage in pairwise(NATURAL):
        for ticks in TABLE_TICKS:
            bonus = shaping.stage_bonus(stage, ticks, previous, TABLE_PREVIOUS_TICKS, given["gamma"], config)
            rows.append(
                {
                    "stage": stage.name,
                    "epochs_in_stage": ticks,
                    "previous_stage": previous.name,
                    "previous_epochs_in_stage": TABLE_PREVIOUS_TICKS,
                    "pbrs_bonus": bonus,
                }
            )
    return {"rows": rows}


def _costs(given, constants):
    config = RewardConfig()
    if "action" in given:
        return {"value": operations.operation_cost(LifecycleOp[given["action"]], config)}
    return {"table": {op.name: operations.operation_cost(op, config) for op in LifecycleOp}}


def _weights(given, constants):
    """Inputs of rent and shock of all slots, and the state for the next step."""
    host, floor, ratio = given["host_params"], given["host_params_floor"], given["base_slot_rent_ratio"]
    loads, changes, alphas, parameters = {}, 0.0, {}, {}
    for slot, state in given["slots"].items():
        active = state is not None and state.get("active", True)
        alpha = state["alpha"] if active else 0.0
        count = state["seed_param_count"] + state.get("gate_params", 0) if active else 0
        before = given["prev_slot_alphas"].get(slot, 0.0), given["prev_slot_params"].get(slot, 0)
        changes += costs.squared_change(before[0], alpha, before[1], host, floor)
        alphas[slot], parameters[slot] = alpha, count
        if active:
            loads[slot] = costs.Load(Stage[state["stage"]], alpha, count)
    return {
        "effective_seed_params": costs.effective_parameters(loads, host, ratio),
        "alpha_delta_sq_sum": changes,
        "slot_alphas_after": alphas,
        "slot_params_after": parameters,
    }


HELPERS = {
    "timing_discount": _timing,
    "attributed_value": _attributed,
    "synergy_bonus": _synergy,
    "scaffold_hindsight_credit": _hindsight,
    "epoch_drip": _drip,
    "seed_potential": _potential,
    "pbrs_table": _table,
    "intervention_costs": _costs,
    "rent_and_shock_inputs": _weights,
}


def helper_case(case, constants):
    if constants["DEFAULT_GAMMA"] != GAMMA:
        raise LookupError(f"the cases discount by {constants['DEFAULT_GAMMA']}, this check by {GAMMA}")
    return HELPERS[case["function"]](case["inputs"], constants)


def measurement_of(given):
    """A table of coalitions as one pass over a validation split."""
    slots = tuple(given["slot_ids"])
    table = []
    for row in given["accuracies"]:
        members = frozenset(slot for slot, on in zip(slots, row["mask"], strict=True) if on)
        table.append(Coalition(members, row["acc"]))
    table.sort(key=lambda coalition: len(coalition.members))
    full = next((c.accuracy_pp for c in table if len(c.members) == len(slots)), float("nan"))
    return Measurement(0.0, full, 1, slots, tuple(table))


def _values(estimates):
    return {slot: value.value_pp for slot, value in estimates.items() if isinstance(value, Estimate)}


LARGEST_MATRIX = 3
"""Most players whose interactions the record lists."""


def _matrix(given):
    """Attribution of a table of coalitions, without unmeasured values."""
    measured = measurement_of(given)
    pairs = contributions.pair_interactions(measured)
    named = {"|".join(sorted(pair)): found.value_pp for pair, found in pairs.items() if isinstance(found, Estimate)}
    shapley = _values(attribution.shapley_values(measured))
    found = {
        "leave_one_out": _values(contributions.leave_one_out(measured)),
        "marginal": attribution.mean_marginals(measured),
        "interactions": named if len(measured.players) <= LARGEST_MATRIX else {},
    }
    if len(shapley) == len(measured.players):
        found["exact_shapley"] = shapley
    none = measured.coalition(frozenset())
    if none is not None:
        found |= {"baseline_accuracy": none.accuracy_pp, "full_accuracy": measured.accuracy_pp}
    return found


def _pair(given):
    none, one, other, both = (given[k] for k in ("all_off_acc", "solo_on_a", "solo_on_b", "pair_acc"))
    masks = ([False, False], [True, False], [False, True], [True, True])
    rows = [{"mask": mask, "acc": acc} for mask, acc in zip(masks, (none, one, other, both), strict=True)]
    measured = measurement_of({"slot_ids": ["a", "b"], "accuracies": rows})
    return {"value": contributions.pair_interactions(measured)[frozenset("ab")].value_pp}


def _regime(given):
    return {"regime": attribution.interaction_regime(given["interaction"], given["derivative"])}


def _strategy(given):
    """Our estimator, which the reference calls ``auto``."""
    return {"strategy": "full_factorial" if given["n_active"] <= EXACT_PLAYERS else "shapley"}


ATTRIBUTIONS = {
    "matrix": _matrix,
    "pair_interaction_index": _pair,
    "interaction_regime": _regime,
    "effective_strategy": _strategy,
}


def attribution_case(case):
    return ATTRIBUTIONS[case["function"]](case["inputs"])


def normalizer_case(case):
    """Running division by the sample deviation as in the reference, over our moments."""
    given = case["inputs"]
    clip, epsilon = given["clip"], given["epsilon"]
    moments, normalised, states = Moments.none(1), [], []
    for reward in given["rewards"]:
        moments = moments.merged(np.array([[reward]]))
        squares = float(moments.squares[0])
        scale = max(epsilon, sqrt(squares / (moments.count - 1))) if moments.count > 1 else 1.0
        normalised.append(max(-clip, min(clip, reward / scale)))
        states.append({"mean": float(moments.mean[0]), "m2": squares, "count": moments.count})
    return {"normalized": normalised, "state": states}
