"""Every alert, once. ``dashboards/alerts.yaml`` follows from here."""

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


def _grown(name: str, window: str, labels: str = "", by: str = "run, group") -> str:
    """That a counter has grown, its first appearance included: what was never there cannot increase."""
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
        "No event for ten minutes, and thrice as long as ever, while it trains: look at the actors in Ray's dashboard.",
    ),
    Alert(
        "ExporterGone",
        f"max by (run, group) (max_over_time({_IN_TRAINING}[30m])) == 1 "
        f"unless on (run, group) max by (run, group) ({_m('run_state')}) "
        f"unless on (run, group) max by (run, group) (max_over_time({_AT_AN_END}[30m])) == 1",
        "2m",
        "page",
        "A run that was training tells nothing any more, and has not said how it ended: the driver is gone.",
    ),
    Alert(
        "RunFailed",
        f"max by (run, group) ({_IN_FAILURE}) == 1",
        "0m",
        "page",
        "The run has ended with an error: the end of its output tells which.",
    ),
    Alert(
        "EvidenceLost",
        _grown("telemetry_dropped_total", "10m", 'delivery="evidence"'),
        "0m",
        "page",
        "A record of the event log is not as declared: integrity.json of the run counts them, and they are in the log.",
    ),
    Alert(
        "NonFinite",
        _grown("nonfinite_total", "10m", by="run, group, where"),
        "0m",
        "page",
        "A number is NaN or infinite: `esper sql RUN` finds it in the column nonfinite.",
    ),
    Alert(
        "UpdatesWithoutSteps",
        f"sum by (run, group) (increase({_NO_STEPS}[30m])) > 2",
        "0m",
        "page",
        "The learner stops before its first step again and again: ppo.target_kl is too small or values are broken.",
    ),
    Alert(
        "EnvironmentGivenUp",
        f"max by (run, group) ({_m('environments_quarantined')}) > 0",
        "0m",
        "page",
        "An environment failed again and again: its error is an event of kind environment_quarantined.",
    ),
)
_TICKETS = (
    Alert(
        "RollbackStorm",
        f"sum by (run, group) (increase({_m('rollbacks_total')}[30m])) > "
        f"{ROLLBACK_SHARE} * sum by (run, group) (increase({_m('episodes_total')}[30m]))",
        "5m",
        "ticket",
        "The governor ends more than a quarter of the episodes: seeds are trained too fast, or grow too large.",
    ),
    Alert(
        "HeadCollapsed",
        f"max by (run, group, head) ({_m('head_entropy_ratio')}) < on (run, group, head) "
        f"max by (run, group, head) ({_m('head_entropy_floor_ratio')})",
        "10m",
        "ticket",
        "A head of the policy has no doubt left: more entropy bonus, or the policy is done.",
    ),
    Alert(
        "UpdateTooLarge",
        f"avg by (run, group) (avg_over_time({_m('ppo_kl_nats')}[15m])) > {LARGE_KL_NATS}",
        "5m",
        "ticket",
        "Updates move the policy far: a smaller ppo.lr or ppo.target_kl.",
    ),
    Alert(
        "CriticUseless",
        f"max by (run, group) ({_m('ppo_explained_variance_ratio')}) < 0 "
        f"and on (run, group) max by (run, group) ({_m('ppo_low_return_variance')}) == 0",
        "30m",
        "ticket",
        "Values predict returns worse than their mean would, though returns differ.",
    ),
    Alert(
        "AccuracyRegressed",
        f"max by (run, group) (max_over_time({_m('round_accuracy_rolling_ratio')}[3h])) - "
        f"max by (run, group) ({_m('round_accuracy_rolling_ratio')}) > {REGRESSION_RATIO}",
        "15m",
        "ticket",
        "The mean of ten rounds is three points below what it has been: look at rollbacks and at the policy.",
    ),
    Alert(
        "BelowControl",
        f"max by (run, group) ({_m('round_accuracy_rolling_ratio')}) < "
        f"max by (run, group) ({_m('round_accuracy_control_ratio')})",
        "1h",
        "ticket",
        "The mean of ten rounds is below what the host learns without growth: growing costs more than it gives.",
    ),
    Alert(
        "LifecycleDead",
        f"sum by (run, group) (increase({_m('rounds_total')}[1h])) > 5 unless on (run, group) "
        f"sum by (run, group) (increase({_m('seed_transitions_total')}[1h])) > 0",
        "0m",
        "ticket",
        "Rounds pass and nothing grows: the policy waits, or every germination is refused.",
    ),
    Alert(
        "NoAgency",
        f"max by (run, group) ({_m('decision_density_ratio')}) < {FEW_CHOICES_RATIO}",
        "20m",
        "ticket",
        "The policy has a choice in less than a tenth of the steps: too few slots, or all are fossilised early.",
    ),
    Alert(
        "RewardGamed",
        f"sum by (run, group) (increase({_CLAIMS}[30m])) > "
        f"{GAMED_SHARE} * sum by (run, group) (increase({_m('env_steps_total')}[30m]))",
        "10m",
        "ticket",
        "In a fifth of the steps a seed claims far more than all seeds achieve: look at the contributions.",
    ),
    Alert(
        "RewardInverted",
        f"max by (run, group) ({_m('reward_accuracy_correlation_ratio')}) < 0",
        "1h",
        "ticket",
        "Episodes that are paid more are less accurate: the reward mode pays for something else.",
    ),
    Alert(
        "ThroughputHalved",
        f"sum by (run, group) (rate({_m('env_steps_total')}[10m])) < "
        f"0.5 * sum by (run, group) (rate({_m('env_steps_total')}[6h]))",
        "10m",
        "ticket",
        "Half as many steps per second as in the hours before: hosts have grown, or the machine is shared.",
    ),
    Alert(
        "SampleLoss",
        f"sum by (run, group) (rate({_DROPPED}[15m])) > {LOST_SHARE} * sum by (run, group) (rate({_SAMPLES}[15m]))",
        "15m",
        "ticket",
        "More than a hundredth of the samples is lost: the telemetry actor or the driver does not keep up.",
    ),
    Alert(
        "GpuMemoryTight",
        "max by (NodeAddress, GpuIndex) (ray_node_gram_used / (ray_node_gram_used + ray_node_gram_available)) > 0.95",
        "5m",
        "ticket",
        "A GPU has less than a twentieth of its memory left: fewer environments on it, or growth.max_parameters.",
    ),
)

ALERTS: Mapping[str, Alert] = {alert.name: alert for alert in (*_PAGES, *_TICKETS)}
"""By name."""
