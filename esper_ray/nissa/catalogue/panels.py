"""Rows of the dashboard: policy, reward, safety and system in full.

The rows of growth are in ``panels_growth``.

``dashboards/esper.json`` is generated from them. An operator reads the dashboard from above: run state, accuracy,
lifecycle, policy, critic and reward, faults, hardware.
"""

from esper_ray.nissa.catalogue.panels_growth import ACCURACY, LIFECYCLE, RUN_STATE
from esper_ray.nissa.catalogue.queries import increase, maximum, rate, series
from esper_ray.nissa.catalogue.shapes import Panel, Query, Row

_EXPLAINED = f"{maximum('ppo_explained_variance_ratio')} and on (group) {maximum('ppo_low_return_variance')} == 0"
_MARGIN = f"{maximum('head_entropy_ratio', 'group, head')} - {maximum('head_entropy_floor_ratio', 'group, head')}"
_REFUSED = 'result="refused"'

POLICY = Row(
    "Policy",
    (
        Panel(
            "Normalised entropy by head",
            "Entropy of each head over that of a uniform choice, minus the floor below which a head has collapsed.",
            "timeseries",
            (Query(_MARGIN, "{{group}} {{head}}"),),
            "none",
            6,
        ),
        Panel(
            "Operations",
            "Share of each operation among all steps.",
            "timeseries",
            (
                Query(
                    f"{rate('actions_total', 'op', '10m')} / on () group_left () sum("
                    f"rate({series('actions_total')}[10m]))",
                    "{{op}}",
                ),
            ),
            "percentunit",
            5,
            stacked=True,
        ),
        Panel(
            "Decision density",
            "Share of steps with more than one legal action, and share of operations without effect.",
            "timeseries",
            (
                Query(maximum("decision_density_ratio"), "{{group}} with a choice"),
                Query(
                    f"{rate('actions_total', 'group', '10m', _REFUSED)} / {rate('actions_total', 'group', '10m')}",
                    "{{group}} refused",
                ),
            ),
            "percentunit",
            4,
        ),
        Panel(
            "Approximate KL and clip fraction",
            "Divergence of the new policy from the behaviour policy, and share of clipped ratios.",
            "timeseries",
            (
                Query(maximum("ppo_kl_nats"), "{{group}} KL (nats)"),
                Query(maximum("ppo_clip_ratio"), "{{group}} clipped"),
            ),
            "none",
            5,
        ),
        Panel(
            "PPO updates by result",
            "Updates in the visible time range: applied, stopped early by the KL limit, or without a step.",
            "bargauge",
            (Query(increase("ppo_updates_total", "result"), "{{result}}"),),
            "none",
            4,
        ),
    ),
    "every head is above zero, and updates stay below 0.1 nats.",
)
REWARD = Row(
    "Critic and reward",
    (
        Panel(
            "Explained variance",
            "Share of the variance of returns that predicted values explain; hidden where returns hardly vary.",
            "timeseries",
            (Query(_EXPLAINED, "{{group}}"),),
            "none",
            4,
        ),
        Panel(
            "Return quantiles",
            "10th, 50th and 90th percentile and mean of the returns of a round.",
            "timeseries",
            (
                Query(maximum("return", "group, quantile"), "{{group}} {{quantile}}"),
                Query(maximum("return_mean"), "{{group}} mean"),
            ),
            "none",
            5,
        ),
        Panel(
            "Mean reward by component",
            "Reward per step by component, mean of a round; the sum is the mean reward.",
            "timeseries",
            (Query(maximum("reward_component_mean", "group, component"), "{{group}} {{component}}"),),
            "none",
            6,
            stacked=True,
        ),
        Panel(
            "Reward gaming rate",
            "Share of steps with a penalty for gaming: contributions beyond the total gain, or shocks while blending.",
            "timeseries",
            (
                Query(
                    f"{rate('reward_gaming_total', 'group, pattern', '10m')} / on (group) group_left () "
                    f"{rate('env_steps_total', 'group', '10m')}",
                    "{{group}} {{pattern}}",
                ),
            ),
            "percentunit",
            4,
        ),
        Panel(
            "Return-accuracy correlation",
            "Pearson correlation of return and validation accuracy over 100 episodes.",
            "timeseries",
            (Query(maximum("reward_accuracy_correlation_ratio"), "{{group}}"),),
            "none",
            5,
        ),
    ),
    "explained variance is above zero, and return correlates with accuracy.",
)
SAFETY = Row(
    "Safety and numerics",
    (
        Panel(
            "Rollbacks",
            "Episodes that the governor ended in the visible time range, by reason.",
            "bargauge",
            (Query(increase("rollbacks_total", "reason"), "{{reason}}"),),
            "none",
            5,
        ),
        Panel(
            "Non-finite values",
            "Number of NaN or infinite values, by kind of event, and of minibatches that were skipped because of one.",
            "timeseries",
            (
                Query(f"sum by (group, where) ({series('nonfinite_total')})", "{{group}} {{where}}"),
                Query(f"sum by (group) ({series('ppo_skipped_minibatches_total')})", "{{group}} skipped minibatches"),
            ),
            "none",
            4,
        ),
        Panel(
            "Gradient norm",
            "Largest norm before clipping of the learner's gradients, of policy, critic and shared trunk.",
            "timeseries",
            (Query(maximum("ppo_grad_norm"), "{{group}}"),),
            "none",
            4,
        ),
        Panel(
            "Process faults",
            "Failures and restarts of processes in the visible time range, by kind.",
            "bargauge",
            (Query(increase("faults_total", "kind"), "{{kind}}"),),
            "none",
            4,
        ),
        Panel(
            "Open anomalies",
            "Anomalies that have not ended, by type.",
            "timeseries",
            (Query(f"{maximum('anomalies_open', 'group, type')} > 0", "{{group}} {{type}}"),),
            "none",
            4,
        ),
        Panel(
            "Quarantined environments",
            "Environments that failed repeatedly; the scheduler gives them no more episodes.",
            "stat",
            (Query(f"{maximum('environments_quarantined')} or 0 * {maximum('rounds_target')}", "{{group}}"),),
            "none",
            3,
            ((None, "green"), (1, "red")),
        ),
    ),
    "no panel of this row grows.",
)
SYSTEM = Row(
    "System",
    (
        Panel(
            "Round duration by phase",
            "Time for rollouts and for the update: median and 95th percentile.",
            "timeseries",
            tuple(
                Query(
                    f"histogram_quantile({q}, sum by (phase, le) (rate("
                    f"{series('phase_duration_seconds').replace('_seconds{', '_seconds_bucket{')}[10m])))",
                    f"{{{{phase}}}} {q}",
                )
                for q in (0.5, 0.95)
            ),
            "s",
            4,
        ),
        Panel(
            "Step duration by phase",
            "Median time of each phase of the sampled steps.",
            "timeseries",
            (
                Query(
                    f"histogram_quantile(0.5, sum by (phase, le) (rate("
                    f"{series('step_duration_seconds').replace('_seconds{', '_seconds_bucket{')}[10m])))",
                    "{{phase}}",
                ),
            ),
            "s",
            4,
        ),
        Panel(
            "GPU memory by environment",
            "Memory of the process of each environment: allocated, reserved and peak.",
            "timeseries",
            (Query(maximum("env_cuda_memory_bytes", "env, state", 'env=~"$env"'), "env {{env}} {{state}}"),),
            "bytes",
            4,
        ),
        Panel(
            "GPU memory",
            "Used share by node and GPU.",
            "timeseries",
            (
                Query(
                    "max by (NodeAddress, GpuIndex) (ray_node_gram_used / "
                    "(ray_node_gram_used + ray_node_gram_available))",
                    "{{NodeAddress}} {{GpuIndex}}",
                ),
            ),
            "percentunit",
            3,
        ),
        Panel(
            "GPU utilisation",
            "Utilisation by node and GPU.",
            "timeseries",
            (Query("max by (NodeAddress, GpuIndex) (ray_node_gpus_utilization)", "{{NodeAddress}} {{GpuIndex}}"),),
            "percent",
            3,
        ),
        Panel(
            "CPU utilisation",
            "Utilisation by node.",
            "timeseries",
            (Query("max by (NodeAddress) (ray_node_cpu_utilization)", "{{NodeAddress}}"),),
            "percent",
            3,
        ),
        Panel(
            "Ray actors",
            "Number of Ray actors by state.",
            "timeseries",
            (Query("sum by (State) (ray_actors)", "{{State}}"),),
            "none",
            3,
        ),
    ),
    "the duration of rounds is stable, and memory stays below its limit.",
)
ROWS = (RUN_STATE, ACCURACY, LIFECYCLE, POLICY, REWARD, SAFETY, SYSTEM)
ANNOTATIONS = (
    ("Rollbacks", f"sum by (reason) (increase({series('rollbacks_total')}[1m])) > 0", "{{reason}}", "red"),
    (
        "Fossilized",
        f"sum by (blueprint) (increase({series('seed_outcomes_total', 'outcome=`fossilized`')}[1m])) > 0",
        "{{blueprint}}",
        "green",
    ),
    ("Anomalies", f"sum by (type) (increase({series('anomalies_total')}[1m])) > 0", "{{type}}", "orange"),
)
"""Title, query, text and colour of the annotations on all time series."""
