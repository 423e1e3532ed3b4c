"""Catalogue of metrics. Registration, pages, dashboard and alert rules are generated from it.

Accuracies are ratios in [0, 1]; the projection converts the percentage points of events.
"""

from collections.abc import Mapping

from esper_ray.nissa.catalogue.shapes import Metric, MetricType, Unit

SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
STEP_SECONDS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
LIVES = (2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 150.0)
STATES = ("training", "trial", "finished", "interrupted", "failed")
"""States of a run. A scheduler may stop a ``trial`` of a sweep at any moment, so no alert fires when it ends."""
GAMING: Mapping[str, str] = {"suspicion": "claims", "shock": "shocks"}
"""Pattern of gaming by the source of reward that penalises it."""
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
"""Normalised entropy below which a head has collapsed."""


def _metric(
    name: str,
    kind: MetricType,
    about: str,
    labels: tuple[str, ...] = (),
    unit: Unit = "",
    buckets: tuple[float, ...] = (),
) -> Metric:
    return Metric(f"esper_{name}", kind, about, labels, unit, buckets)


_RUN_STATE = (
    _metric("run_info", "gauge", "1; its labels identify the run", ("task", "reward_mode", "policy", "config")),
    _metric("run_state", "gauge", "1 for the present state of the run, else 0", ("state",)),
    _metric("last_event_timestamp_seconds", "gauge", "Unix time of the newest event", ("source",), "seconds"),
    _metric("longest_silence_seconds", "gauge", "longest time between two events so far", unit="seconds"),
    _metric("rounds_total", "counter", "finished rounds since the process started", unit="rounds"),
    _metric("rounds_done", "gauge", "finished rounds, those before a resume included", unit="rounds"),
    _metric("round_duration_seconds", "gauge", "duration of the last round, update included", unit="seconds"),
    _metric("rounds_target", "gauge", "rounds that the run will have", unit="rounds"),
    _metric("env_steps_total", "counter", "environment steps", unit="steps"),
    _metric("episodes_total", "counter", "finished episodes", ("outcome",), "episodes"),
)
_ACCURACY = (
    _metric("round_accuracy_ratio", "gauge", "mean validation accuracy at the end of a round's episodes", unit="ratio"),
    _metric("round_accuracy_min_ratio", "gauge", "lowest validation accuracy of a round's episodes", unit="ratio"),
    _metric("round_accuracy_max_ratio", "gauge", "highest validation accuracy of a round's episodes", unit="ratio"),
    _metric("round_accuracy_rolling_ratio", "gauge", "mean validation accuracy of the last ten rounds", unit="ratio"),
    _metric("round_accuracy_control_ratio", "gauge", "mean accuracy at the end without growth", unit="ratio"),
    _metric("round_committed_accuracy_ratio", "gauge", "mean accuracy with fossilized seeds only", unit="ratio"),
    _metric("round_growth_ratio", "gauge", "mean of total parameters over those of the host", unit="ratio"),
    _metric("env_accuracy_ratio", "gauge", "validation accuracy of the newest step", ("env",), "ratio"),
    _metric("env_best_accuracy_ratio", "gauge", "highest validation accuracy of the episode", ("env",), "ratio"),
    _metric("env_val_loss_nats", "gauge", "validation loss of the newest step", ("env",), "nats"),
    _metric("env_growth_ratio", "gauge", "total parameters over those of the host", ("env",), "ratio"),
    _metric("env_steps_since_best", "gauge", "steps since the highest accuracy of the episode", ("env",), "steps"),
)
_LIFECYCLE = (
    _metric("slots", "gauge", "slots of all environments by the stage of their seed", ("stage",)),
    _metric("slot_stage_code", "gauge", "number of the stage; 0 where the slot is empty", ("env", "slot")),
    _metric("slot_alpha_ratio", "gauge", "amplitude alpha of the seed", ("env", "slot"), "ratio"),
    _metric("slot_contribution_ratio", "gauge", "accuracy with the seed minus without", ("env", "slot"), "ratio"),
    _metric("seed_transitions_total", "counter", "stage transitions of seeds", ("from_stage", "to_stage")),
    _metric(
        "seed_outcomes_total", "counter", "seeds that were fossilized or pruned", ("blueprint", "outcome", "initiator")
    ),
    _metric("seed_lifespan_steps", "histogram", "steps from germination to the outcome", ("outcome",), "steps", LIVES),
    _metric(
        "blueprint_contribution_ratio",
        "gauge",
        "mean contribution at fossilization since the run began",
        ("blueprint",),
        "ratio",
    ),
    _metric("gate_evaluations_total", "counter", "evaluations of gates", ("gate", "result")),
    _metric("gate_check_failures_total", "counter", "failed checks of gates", ("gate", "check")),
    _metric("vetoes_total", "counter", "germinations that would exceed a budget", ("reason",)),
    _metric("rollbacks_total", "counter", "episodes that the governor ended", ("reason",)),
)
_POLICY = (
    _metric("actions_total", "counter", "steps by operation and result", ("op", "result")),
    _metric(
        "decision_density_ratio", "gauge", "share of a round's steps with more than one legal action", unit="ratio"
    ),
    _metric("head_entropy_ratio", "gauge", "entropy divided by that of a uniform choice", ("head",), "ratio"),
    _metric(
        "head_entropy_floor_ratio", "gauge", "normalised entropy below which the head has collapsed", ("head",), "ratio"
    ),
    _metric("ppo_updates_total", "counter", "updates of the learner", ("result",)),
    _metric("ppo_optimizer_steps", "gauge", "optimizer steps of the last update"),
    _metric("ppo_skipped_minibatches_total", "counter", "minibatches without a step because they were not finite"),
    _metric("ppo_policy_loss_nats", "gauge", "surrogate loss", unit="nats"),
    _metric("ppo_value_loss", "gauge", "loss of the critic in squared standard deviations of returns"),
    _metric("ppo_entropy_nats", "gauge", "entropy of a whole action", unit="nats"),
    _metric("ppo_kl_nats", "gauge", "approximate KL divergence from the behaviour policy", unit="nats"),
    _metric("ppo_clip_ratio", "gauge", "share of clipped ratios", unit="ratio"),
    _metric("ppo_grad_norm", "gauge", "largest gradient norm before clipping, of policy, critic and trunk"),
    _metric("ppo_explained_variance_ratio", "gauge", "explained variance of returns by predicted values", unit="ratio"),
    _metric(
        "ppo_low_return_variance", "gauge", "1 where returns hardly vary, so that explained variance has no meaning"
    ),
    _metric("ppo_epsilon_ratio", "gauge", "probability of a random legal action", unit="ratio"),
    _metric("ppo_entropy_coefficient", "gauge", "weight of the entropy bonus"),
)
_REWARD = (
    _metric("return", "gauge", "returns of a round's episodes", ("quantile",), "reward"),
    _metric("return_mean", "gauge", "mean return of a round", unit="reward"),
    _metric("return_std", "gauge", "standard deviation of a round's returns", unit="reward"),
    _metric("reward_component_mean", "gauge", "reward per step of the round, by component", ("component",), "reward"),
    _metric(
        "reward_gaming_total",
        "counter",
        "penalties for gaming the reward, by pattern",
        ("pattern",),
    ),
    _metric(
        "reward_accuracy_correlation_ratio",
        "gauge",
        "correlation of return and accuracy over 100 episodes",
        unit="ratio",
    ),
)
_SAFETY = (
    _metric("nonfinite_total", "counter", "values that were NaN or infinite, by kind of event", ("where",)),
    _metric("faults_total", "counter", "faults of processes and their repairs", ("kind",)),
    _metric("environments_quarantined", "gauge", "quarantined environments"),
    _metric("anomalies_total", "counter", "anomalies that have started", ("type",)),
    _metric("anomalies_open", "gauge", "open anomalies", ("type",)),
)
_SYSTEM = (
    _metric("phase_duration_seconds", "histogram", "duration of rollouts and updates", ("phase",), "seconds", SECONDS),
    _metric(
        "step_duration_seconds",
        "histogram",
        "duration of the phases of sampled steps",
        ("phase",),
        "seconds",
        STEP_SECONDS,
    ),
    _metric("env_cuda_memory_bytes", "gauge", "GPU memory of the environment's process", ("env", "state"), "bytes"),
    _metric("env_steps_per_second", "gauge", "environment steps per second of the last round"),
    _metric("telemetry_restarts_total", "counter", "restarts of telemetry actors"),
    _metric("telemetry_events_total", "counter", "events and samples", ("delivery",)),
    _metric(
        "telemetry_dropped_total",
        "counter",
        "records that were lost or do not match their declaration",
        ("delivery", "reason"),
    ),
)

METRICS: Mapping[str, Metric] = {
    metric.name: metric for metric in (*_RUN_STATE, *_ACCURACY, *_LIFECYCLE, *_POLICY, *_REWARD, *_SAFETY, *_SYSTEM)
}
"""By name."""
