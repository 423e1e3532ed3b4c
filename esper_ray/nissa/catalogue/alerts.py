"""Catalogue of alerts. ``dashboards/alerts.yaml`` is generated from it."""

from collections.abc import Mapping

from esper_ray.nissa.catalogue.metrics import METRICS
from esper_ray.nissa.catalogue.shapes import Alert

STALL_SECONDS = 600
STALL_MULTIPLE = 3
LARGE_KL_NATS = 0.1
REGRESSION_RATIO = 0.03
FEW_CHOICES_RATIO = 0.1
ROLLBACK_SHARE = 0.25
GAMED_SHARE = 0.2
LOST_SHARE = 0.01


def _m(name: str, labels: str = "") -> str:
    exported = METRICS[f"esper_{name}"].exported
    return f"{exported}{{{labels}}}" if labels else exported


def _increased(name: str, window: str, labels: str = "", by: str = "run, group") -> str:
    """Condition that a counter has grown, its first value included, which ``increase`` ignores."""
    series = _m(name, labels)
    first = f"(sum by ({by}) ({series}) unless sum by ({by}) ({series} offset {window}))"
    return f"sum by ({by}) (increase({series}[{window}])) > 0 or {first}"


_SILENCE = f"time() - max by (run, group) ({_m('last_event_timestamp_seconds')})"
_IN_TRAINING = _m("run_state", 'state="training"')
_IN_FAILURE = _m("run_state", 'state="failed"')
_AT_AN_END = _m("run_state", 'state=~"finished|interrupted|failed"')
_NO_STEPS = _m("ppo_updates_total", 'result="nothing"')
_CLAIMS = _m("reward_gaming_total", 'pattern="claims"')
_DROPPED = _m("telemetry_dropped_total", 'delivery="sample"')
_SAMPLES = _m("telemetry_events_total", 'delivery="sample"')

_PAGES = (
    Alert(
        "RunStalled",
        f"{_SILENCE} > {STALL_SECONDS} and on (run, group) "
        f"{_SILENCE} > {STALL_MULTIPLE} * max by (run, group) ({_m('longest_silence_seconds')}) "
        f"and on (run, group) max by (run, group) ({_IN_TRAINING}) == 1",
        "2m",
        "page",
        "No event for ten minutes, three times the longest gap so far, while training: check the actors of Ray.",
    ),
    Alert(
        "ExporterGone",
        f"max by (run, group) (max_over_time({_IN_TRAINING}[30m])) == 1 "
        f"unless on (run, group) max by (run, group) ({_m('run_state')}) "
        f"unless on (run, group) max by (run, group) (max_over_time({_AT_AN_END}[30m])) == 1",
        "2m",
        "page",
        "A training run exports no more metrics and did not report its end: the driver process was lost.",
    ),
    Alert(
        "RunFailed",
        f"max by (run, group) ({_IN_FAILURE}) == 1",
        "0m",
        "page",
        "The run ended with an error: the last lines of its output show it.",
    ),
    Alert(
        "EvidenceLost",
        _increased("telemetry_dropped_total", "10m", 'delivery="evidence"'),
        "0m",
        "page",
        "A record of the event log does not match its declaration: integrity.json counts them; the log keeps them.",
    ),
    Alert(
        "NonFinite",
        _increased("nonfinite_total", "10m", by="run, group, where"),
        "0m",
        "page",
        "A value is NaN or infinite: `esper sql RUN` shows it in the column nonfinite.",
    ),
    Alert(
        "MinibatchesSkipped",
        _increased("ppo_skipped_minibatches_total", "30m"),
        "0m",
        "page",
        "Minibatches are skipped because a reward, a loss or a gradient is not finite: `rounds.csv` shows the rounds.",
    ),
    Alert(
        "UpdatesWithoutSteps",
        f"sum by (run, group) (increase({_NO_STEPS}[30m])) > 2",
        "0m",
        "page",
        "Updates stop repeatedly before the first optimizer step: ppo.target_kl is too small, or values are invalid.",
    ),
    Alert(
        "EnvironmentQuarantined",
        f"max by (run, group) ({_m('environments_quarantined')}) > 0",
        "0m",
        "page",
        "An environment failed repeatedly: an event of kind environment_quarantined carries its error.",
    ),
)
_TICKETS = (
    Alert(
        "RollbackStorm",
        f"sum by (run, group) (increase({_m('rollbacks_total')}[30m])) > "
        f"{ROLLBACK_SHARE} * sum by (run, group) (increase({_m('episodes_total')}[30m]))",
        "5m",
        "ticket",
        "The governor ends more than a quarter of the episodes: seeds train too fast, or grow too large.",
    ),
    Alert(
        "HeadCollapsed",
        f"max by (run, group, head) ({_m('head_entropy_ratio')}) < on (run, group, head) "
        f"max by (run, group, head) ({_m('head_entropy_floor_ratio')})",
        "10m",
        "ticket",
        "The entropy of a head is below its floor: raise the entropy bonus, unless training has converged.",
    ),
    Alert(
        "UpdateTooLarge",
        f"avg by (run, group) (avg_over_time({_m('ppo_kl_nats')}[15m])) > {LARGE_KL_NATS}",
        "5m",
        "ticket",
        "The approximate KL of updates is large: lower ppo.lr or ppo.target_kl.",
    ),
    Alert(
        "CriticUseless",
        f"max by (run, group) ({_m('ppo_explained_variance_ratio')}) < 0 "
        f"and on (run, group) max by (run, group) ({_m('ppo_low_return_variance')}) == 0",
        "30m",
        "ticket",
        "Values predict returns worse than the mean return does, although returns vary.",
    ),
    Alert(
        "AccuracyRegressed",
        f"max by (run, group) (max_over_time({_m('round_accuracy_rolling_ratio')}[3h])) - "
        f"max by (run, group) ({_m('round_accuracy_rolling_ratio')}) > {REGRESSION_RATIO}",
        "15m",
        "ticket",
        "The mean of ten rounds is three points below its maximum: check rollbacks and the policy.",
    ),
    Alert(
        "BelowControl",
        f"max by (run, group) ({_m('round_accuracy_rolling_ratio')}) < "
        f"max by (run, group) ({_m('round_accuracy_control_ratio')})",
        "1h",
        "ticket",
        "The mean of ten rounds is below the accuracy of the host without growth: growth costs more than it gains.",
    ),
    Alert(
        "LifecycleDead",
        f"sum by (run, group) (increase({_m('rounds_total')}[1h])) > 5 unless on (run, group) "
        f"sum by (run, group) (increase({_m('seed_transitions_total')}[1h])) > 0",
        "0m",
        "ticket",
        "No seed has changed its stage for many rounds: the policy waits, or every germination is refused.",
    ),
    Alert(
        "NoAgency",
        f"max by (run, group) ({_m('decision_density_ratio')}) < {FEW_CHOICES_RATIO}",
        "20m",
        "ticket",
        "Less than a tenth of the steps have more than one legal action: too few slots, or all fossilized early.",
    ),
    Alert(
        "RewardGamed",
        f"sum by (run, group) (increase({_CLAIMS}[30m])) > "
        f"{GAMED_SHARE} * sum by (run, group) (increase({_m('env_steps_total')}[30m]))",
        "10m",
        "ticket",
        "In a fifth of the steps a seed claims far more than all seeds gain together: check the contributions.",
    ),
    Alert(
        "RewardInverted",
        f"max by (run, group) ({_m('reward_accuracy_correlation_ratio')}) < 0",
        "1h",
        "ticket",
        "Return and accuracy correlate negatively: the reward mode rewards something other than accuracy.",
    ),
    Alert(
        "ThroughputHalved",
        f"sum by (run, group) (rate({_m('env_steps_total')}[10m])) < "
        f"0.5 * sum by (run, group) (rate({_m('env_steps_total')}[6h]))",
        "10m",
        "ticket",
        "Steps per second are half of those of the last six hours: hosts have grown, or the machine is shared.",
    ),
    Alert(
        "SampleLoss",
        f"sum by (run, group) (rate({_DROPPED}[15m])) > {LOST_SHARE} * sum by (run, group) (rate({_SAMPLES}[15m]))",
        "15m",
        "ticket",
        "More than one percent of the samples are lost: the telemetry actor or the driver is too slow.",
    ),
    Alert(
        "GpuMemoryTight",
        "max by (NodeAddress, GpuIndex) (ray_node_gram_used / (ray_node_gram_used + ray_node_gram_available)) > 0.95",
        "5m",
        "ticket",
        "Less than 5 percent of a GPU's memory is free: place fewer environments on it, or set growth.max_parameters.",
    ),
)

ALERTS: Mapping[str, Alert] = {alert.name: alert for alert in (*_PAGES, *_TICKETS)}
"""Alerts by name."""
