"""Event records of an episode: start, steps, and the attribution at its end."""

from collections.abc import Mapping
from typing import Any

from esper_ray.leyline.contributions import leave_one_out, pair_interactions
from esper_ray.leyline.policy import Decision
from esper_ray.leyline.records import Attribution, Estimate, Measurement, SlotReport
from esper_ray.leyline.step_outcome import StepOutcome
from esper_ray.simic.attribution import shapley_values

HOST_STATE = ("val_loss", "val_accuracy_pp", "committed_accuracy_pp", "total_parameters", "growth_ratio")


def started_record(ids: Mapping[str, int], seed: int, outcome: StepOutcome) -> dict[str, Any]:
    """The ``episode_started`` record of the event log.

    Args:
        ids: numbers of episode and environment.
        outcome: outcome of ``reset``.
    """
    return {"kind": "episode_started", **ids, "step": 0, "seed": seed, **host_state(outcome)}


def step_records(ids: Mapping[str, int], decision: Decision, outcome: StepOutcome) -> list[dict[str, Any]]:
    """Records of one step: lifecycle events first, then the decision and its outcome."""
    events = [{"kind": event.kind, **ids, "step": event.epoch, **event.data} for event in outcome.events]
    return [*events, {"kind": "env_epoch", **ids, **_epoch_record(decision, outcome)}]


def attribution_records(ids: Mapping[str, int], measured: Measurement) -> list[dict[str, Any]]:
    """Coalition accuracies at the end of an episode, and the attribution to each seed."""
    if not measured.players:
        return []
    complete = len(measured.coalitions) == 2 ** len(measured.players)
    coalitions = [{"members": sorted(c.members), "accuracy_pp": c.accuracy_pp} for c in measured.coalitions]
    common = {"players": list(measured.players), "examples": measured.examples, "complete": complete}
    shapley, alone = shapley_values(measured), leave_one_out(measured)
    slots = [
        {
            "slot": slot,
            "shapley_pp": _value(shapley[slot]),
            "shapley_error_pp": getattr(shapley[slot], "error_pp", None),
            "leave_one_out_pp": _value(alone[slot]),
        }
        for slot in measured.players
    ]
    pairs = [
        dict(zip(("first", "second"), sorted(pair), strict=True)) | {"interaction_pp": _value(interaction)}
        for pair, interaction in pair_interactions(measured).items()
    ]
    method = {"method": "exact" if complete else "orders", "orders": 0 if complete else len(measured.orders)}
    return [
        {"kind": "counterfactual", **ids, **common, "coalitions": coalitions},
        {"kind": "attribution", **ids, **method, "slots": slots, "pairs": pairs},
    ]


def _value(attribution: Attribution) -> float | None:
    return attribution.value_pp if isinstance(attribution, Estimate) else None


def host_state(outcome: StepOutcome) -> dict[str, Any]:
    """Losses, accuracies and sizes of a step, by name."""
    return {name: getattr(outcome, name) for name in HOST_STATE}


def _epoch_record(decision: Decision, outcome: StepOutcome) -> dict[str, Any]:
    """The ``env_epoch`` record: decision, reason, outcome and reward entries of a step."""
    entries = [
        {"source": e.source, "slot": e.slot, "amount": e.amount, "cause_step": e.cause_step, "why": e.explanation}
        for e in outcome.entries
    ]
    return {
        "step": outcome.epoch,
        "operation": outcome.operation.name,
        "slot": outcome.slot,
        "success": outcome.success,
        "action": decision.action.to_indices(),
        "why": decision.reason,
        "log_prob": decision.log_prob_op + decision.log_prob_arguments,
        "value": decision.value,
        "reward": outcome.reward,
        "entries": entries,
        "train_loss": outcome.train_loss,
        **host_state(outcome),
        "slots": {report.slot_id: _slot_record(report) for report in outcome.reports if report is not None},
    }


def _slot_record(report: SlotReport) -> dict[str, Any]:
    measured = report.measured
    return {
        "seed": report.seed_id,
        "blueprint": report.blueprint_name,
        "stage": report.stage.name,
        "alpha": report.alpha,
        "contribution_pp": measured.contribution_pp,
        "contribution_error_pp": measured.contribution_error_pp,
        "gradient_health": measured.gradient_health,
        "parameters": report.parameters,
    }
