"""Every metric, once. Registration, pages, dashboard and alert rules follow from here.

Accuracies are ratios in [0, 1] here; percentage points are turned into them where records are folded.
"""

from collections.abc import Mapping

from esper_ray.nissa.catalogue.shapes import Metric, MetricType, Unit

SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
STEP_SECONDS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
LIVES = (2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 150.0)
STATES = ("training", "trial", "finished", "interrupted", "failed")
"""Of a run. A trial of a sweep may be ended at any moment, so nobody is called when it is."""
GAMING: Mapping[str, str] = {"suspicion": "claims", "shock": "shocks"}
"""Sources of pay that charge for gaming, and what the pattern is called."""
ENTROPY_FLOORS: Mapping[str, float] = {
    "op": 0.08,
    "slot": 0.10,
    "blueprint": 0.05,
    "style": 0.08,
    "tempo": 0.05,
    "alpha_target": 0.08,
    "alpha_speed": 0.08,
    "alpha_curve": 0.08,
}
"""Normalised entropy below which a head has made up its mind for good."""


def _metric(
    name: str,
    kind: MetricType,
    about: str,
    labels: tuple[str, ...] = (),
    unit: Unit = "",
    buckets: tuple[float, ...] = (),
) -> Metric:
    return Metric(f"esper_{name}", kind, about, labels, unit, buckets)


_PULSE = (
    _metric("run_info", "gauge", "1; tells what the run is", ("task", "reward_mode", "policy", "config")),
    _metric("run_state", "gauge", "1 for the state that the run is in, else 0", ("state",)),
    _metric("last_event_timestamp_seconds", "gauge", "Unix time of the newest event", ("source",), "seconds"),
    _metric("longest_silence_seconds", "gauge", "longest time between two events so far", unit="seconds"),
    _metric("rounds_total", "counter", "rounds that are finished", unit="rounds"),
    _metric("rounds_done", "gauge", "rounds that are finished, those before a resumption too", unit="rounds"),
    _metric("round_duration_seconds", "gauge", "how long the last round took, learning included", unit="seconds"),
    _metric("rounds_target", "gauge", "rounds that the run is to have", unit="rounds"),
    _metric("env_steps_total", "counter", "environment steps that have been played", unit="steps"),
    _metric("episodes_total", "counter", "episodes that are over", ("outcome",), "episodes"),
)
_TASK = (
    _metric("round_accuracy_ratio", "gauge", "mean validation accuracy at the end of a round's episodes", unit="ratio"),
    _metric("round_accuracy_min_ratio", "gauge", "lowest validation accuracy of a round's episodes", unit="ratio"),
    _metric("round_accuracy_max_ratio", "gauge", "highest validation accuracy of a round's episodes", unit="ratio"),
    _metric("round_accuracy_rolling_ratio", "gauge", "mean of the last ten rounds", unit="ratio"),
    _metric("round_accuracy_control_ratio", "gauge", "mean accuracy at the end without growth", unit="ratio"),
    _metric("round_committed_accuracy_ratio", "gauge", "mean accuracy with fossilised seeds only", unit="ratio"),
    _metric("round_growth_ratio", "gauge", "mean of total parameters over those of the host", unit="ratio"),
    _metric("env_accuracy_ratio", "gauge", "validation accuracy of the newest step", ("env",), "ratio"),
    _metric("env_best_accuracy_ratio", "gauge", "highest validation accuracy of the episode", ("env",), "ratio"),
    _metric("env_val_loss_nats", "gauge", "validation loss of the newest step", ("env",), "nats"),
    _metric("env_growth_ratio", "gauge", "total parameters over those of the host", ("env",), "ratio"),
    _metric("env_steps_since_best", "gauge", "steps since the accuracy of the episode was highest", ("env",), "steps"),
)
_LIFECYCLE = (
    _metric("slots", "gauge", "slots of all environments by the stage of their seed", ("stage",)),
    _metric("slot_stage_code", "gauge", "number of the stage; 0 where the slot is empty", ("env", "slot")),
    _metric("slot_alpha_ratio", "gauge", "amplitude with which the seed is blended in", ("env", "slot"), "ratio"),
    _metric("slot_contribution_ratio", "gauge", "accuracy with the seed minus without", ("env", "slot"), "ratio"),
    _metric("seed_transitions_total", "counter", "changes of stage", ("from_stage", "to_stage")),
    _metric("seed_outcomes_total", "counter", "seeds that were kept or pruned", ("blueprint", "outcome", "initiator")),
    _metric("seed_lifespan_steps", "histogram", "steps from germination to the end", ("outcome",), "steps", LIVES),
    _metric(
        "blueprint_contribution_ratio", "gauge", "moving average of what was kept contributed", ("blueprint",), "ratio"
    ),
    _metric("gate_evaluations_total", "counter", "gates that were tried", ("gate", "result")),
    _metric("gate_check_failures_total", "counter", "what kept gates shut", ("gate", "check")),
    _metric("vetoes_total", "counter", "germinations that would have cost too much", ("reason",)),
    _metric("rollbacks_total", "counter", "episodes that the governor ended", ("reason",)),
)
_POLICY = (
    _metric("actions_total", "counter", "operations", ("op", "result")),
    _metric(
        "decision_density_ratio", "gauge", "share of a round's steps with more than one legal action", unit="ratio"
    ),
    _metric("head_entropy_ratio", "gauge", "entropy over that of a uniform choice", ("head",), "ratio"),
    _metric("head_entropy_floor_ratio", "gauge", "entropy below which the head has collapsed", ("head",), "ratio"),
    _metric("ppo_updates_total", "counter", "updates", ("result",)),
    _metric("ppo_optimizer_steps", "gauge", "steps of the optimiser in the last update"),
    _metric("ppo_policy_loss_nats", "gauge", "surrogate loss", unit="nats"),
    _metric("ppo_value_loss", "gauge", "loss of the critic in units of scaled returns"),
    _metric("ppo_entropy_nats", "gauge", "entropy of a whole action", unit="nats"),
    _metric("ppo_kl_nats", "gauge", "divergence from the policy that played", unit="nats"),
    _metric("ppo_clip_ratio", "gauge", "share of ratios that were clipped", unit="ratio"),
    _metric("ppo_grad_norm", "gauge", "gradient norm before clipping"),
    _metric("ppo_explained_variance_ratio", "gauge", "of returns by predicted values", unit="ratio"),
    _metric("ppo_low_return_variance", "gauge", "1 where explained variance says nothing"),
    _metric("ppo_epsilon_ratio", "gauge", "share of random legal actions", unit="ratio"),
    _metric("ppo_entropy_coefficient", "gauge", "weight of the entropy bonus"),
)
_REWARD = (
    _metric("return", "gauge", "returns of a round's episodes", ("quantile",), "reward"),
    _metric("return_mean", "gauge", "mean return of a round", unit="reward"),
    _metric("return_std", "gauge", "standard deviation of a round's returns", unit="reward"),
    _metric(
        "reward_component_mean", "gauge", "pay per step over the round, by what it is for", ("component",), "reward"
    ),
    _metric(
        "reward_gaming_total",
        "counter",
        "steps that were charged for claims or tricks beyond what they are worth",
        ("pattern",),
    ),
    _metric("reward_accuracy_correlation_ratio", "gauge", "of return and accuracy over 100 episodes", unit="ratio"),
)
_SAFETY = (
    _metric("nonfinite_total", "counter", "numbers that were not finite, by kind of event", ("where",)),
    _metric("faults_total", "counter", "what went wrong in processes, and what was right again", ("kind",)),
    _metric("environments_quarantined", "gauge", "environments that are given up"),
    _metric("anomalies_total", "counter", "anomalies that have begun", ("type",)),
    _metric("anomalies_open", "gauge", "anomalies that are not over", ("type",)),
)
_SYSTEM = (
    _metric("phase_duration_seconds", "histogram", "how long a round plays and learns", ("phase",), "seconds", SECONDS),
    _metric(
        "step_duration_seconds",
        "histogram",
        "where the time of sampled steps goes",
        ("phase",),
        "seconds",
        STEP_SECONDS,
    ),
    _metric("env_cuda_memory_bytes", "gauge", "GPU memory of the environment's process", ("env", "state"), "bytes"),
    _metric("env_steps_per_second", "gauge", "environment steps per second of the last round"),
    _metric("telemetry_restarts_total", "counter", "telemetry actors that had to be started again"),
    _metric("telemetry_events_total", "counter", "records", ("delivery",)),
    _metric(
        "telemetry_dropped_total", "counter", "records that were lost or are not as declared", ("delivery", "reason")
    ),
)

METRICS: Mapping[str, Metric] = {
    metric.name: metric for metric in (*_PULSE, *_TASK, *_LIFECYCLE, *_POLICY, *_REWARD, *_SAFETY, *_SYSTEM)
}
"""By name."""
