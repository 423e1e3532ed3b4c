"""Numbers of a state that metrics have too."""

import math

import numpy as np

from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.catalogue.metrics import METRICS
from esper_ray.nissa.metrics.projection import QUANTILES
from esper_ray.nissa.state.measures import normalized_entropy, occupied_stages

UPDATES = {
    "ppo_policy_loss_nats": "policy_loss",
    "ppo_value_loss": "value_loss",
    "ppo_entropy_nats": "entropy",
    "ppo_kl_nats": "kl",
    "ppo_clip_ratio": "clip_share",
    "ppo_grad_norm": "grad_norm",
    "ppo_explained_variance_ratio": "explained_variance",
    "ppo_optimizer_steps": "optimizer_steps",
}
ROUNDS = {
    "round_accuracy_ratio": "val_accuracy_ratio",
    "round_committed_accuracy_ratio": "committed_accuracy_ratio",
    "round_growth_ratio": "growth_ratio",
    "return_mean": "return_mean",
    "return_std": "return_std",
}


def metric_values(changes):
    """Values of the metrics after these changes, by name without prefix and labels."""
    values = {}
    for change in changes:
        name, metric = change.metric.removeprefix("esper_"), METRICS[change.metric]
        keys = [(name, *change.labels)]
        if name == "seed_outcomes_total":  # the state has them without their initiator
            keys.append(keys[0][:3])
        for key in keys:
            values[key] = change.value + (values.get(key, 0.0) if metric.type == "counter" else 0.0)
    return values


def state_numbers(state, choices):
    """The same of a state, for the metrics whose number it has; those that are zero or not measured are left out."""
    numbers = counters(state) | environments(state) | rounds(state) | update(state, choices)
    return {key: value for key, value in numbers.items() if value and math.isfinite(value)}


def counters(state):
    """Counters, and gauges of the whole run."""
    totals = state.totals
    refused, ran = totals.refused, totals.operations
    deliveries = [KINDS[kind].delivery for kind, count in totals.events.items() for _ in range(count)]
    numbers = {
        ("env_steps_total",): totals.steps,
        ("rounds_total",): len(state.rounds),
        ("environments_quarantined",): len(state.quarantined),
        ("round_accuracy_rolling_ratio",): state.rolling_accuracy_ratio,
        ("round_accuracy_control_ratio",): state.control_accuracy_ratio,
        ("reward_accuracy_correlation_ratio",): state.reward_accuracy_correlation,
        ("telemetry_dropped_total", "evidence", "malformed"): totals.malformed,
        **{("telemetry_events_total", name): deliveries.count(name) for name in set(deliveries)},
        **{("actions_total", name, "ok"): count - refused.get(name, 0) for name, count in ran.items()},
        **{("actions_total", name, "refused"): count for name, count in refused.items()},
        **{("reward_gaming_total", name): count for name, count in totals.gaming.items()},
        **{("gate_evaluations_total", name, "pass"): count for name, count in totals.gates_passed.items()},
        **{("gate_evaluations_total", name, "fail"): count for name, count in totals.gates_failed.items()},
        **{("vetoes_total", name): count for name, count in totals.vetoes.items()},
        **{("rollbacks_total", name): count for name, count in totals.rollbacks.items()},
        **{("episodes_total", name): count for name, count in totals.episodes.items()},
        **{("ppo_updates_total", name): count for name, count in totals.updates.items()},
        **{("anomalies_total", name): count for name, count in totals.anomalies.items()},
        **{("anomalies_open", name): state.open_anomalies(name) for name in totals.anomalies},
        **{("nonfinite_total", kind): count for kind, count in totals.nonfinite.items()},
        **{("telemetry_dropped_total", "sample", name): count for name, count in totals.samples_lost.items()},
    }
    for source, targets in totals.transitions.items():
        numbers |= {("seed_transitions_total", source, target): count for target, count in targets.items()}
    for gate, checks in totals.failed_checks.items():
        numbers |= {("gate_check_failures_total", gate, check): count for check, count in checks.items()}
    for name, record in state.blueprints.items():
        numbers["seed_outcomes_total", name, "fossilized"] = record.fossilized
        numbers["seed_outcomes_total", name, "pruned"] = record.pruned
        numbers["blueprint_contribution_ratio", name] = ratio(record.contribution_pp)
    return {key: value for key, value in numbers.items() if value is not None}


def environments(state):
    """Gauges of the newest episodes."""
    numbers = {}
    for env, episode in state.episodes.items():
        numbers |= {
            ("env_accuracy_ratio", str(env)): ratio(episode.val_accuracy_pp),
            ("env_best_accuracy_ratio", str(env)): ratio(episode.best_accuracy_pp),
            ("env_steps_since_best", str(env)): episode.steps_since_best,
            ("env_growth_ratio", str(env)): episode.growth_ratio,
            ("env_val_loss_nats", str(env)): episode.val_loss,
        }
    return {key: value for key, value in numbers.items() if value is not None}


def slots(state):
    """Slots of the logged episodes by stage, without the empty ones."""
    return {("slots", stage.name): count for stage, count in occupied_stages(state.episodes.values()).items()}


def rounds(state):
    """Gauges of the newest finished round."""
    numbers = {}
    if state.rounds:
        numbers = {(metric,): state.rounds[-1][name] for metric, name in ROUNDS.items()}
        numbers["rounds_done",] = state.rounds[-1]["round"] + 1
    tally = state.last_tally
    if tally is not None:
        accuracies = [ratio(o.val_accuracy_pp) for o in tally.outcomes if o.val_accuracy_pp is not None]
        returns = [o.total_reward for o in tally.outcomes if o.total_reward is not None]
        if accuracies:
            numbers |= {("round_accuracy_min_ratio",): min(accuracies), ("round_accuracy_max_ratio",): max(accuracies)}
        if returns:
            numbers |= {("return", str(q)): float(np.quantile(returns, q)) for q in QUANTILES}
        if tally.steps:
            numbers["decision_density_ratio",] = tally.steps_with_choice / tally.steps
            rewards = tally.reward_by_source
            numbers |= {("reward_component_mean", name): amount / tally.steps for name, amount in rewards.items()}
    return {key: value for key, value in numbers.items() if value is not None}


def update(state, choices):
    """Gauges of the newest update of the learner."""
    if state.update is None:
        return {}
    numbers = {(metric,): state.update[name] for metric, name in UPDATES.items()}
    numbers |= {("head_entropy_ratio", head): normalized_entropy(state.update, head, choices) for head in choices}
    return {key: value for key, value in numbers.items() if value is not None}


def ratio(percentage_points):
    return None if percentage_points is None else percentage_points / 100.0
