"""The lower rows of the dashboard: does the policy decide, is it paid for the right thing, is anything broken?"""

from esper_ray.nissa.catalogue.queries import grown, over, series, top
from esper_ray.nissa.catalogue.shapes import Panel, Query, Row

_EXPLAINED = f"{top('ppo_explained_variance_ratio')} and on (group) {top('ppo_low_return_variance')} == 0"
_MARGIN = f"{top('head_entropy_ratio', 'group, head')} - {top('head_entropy_floor_ratio', 'group, head')}"
_REFUSED = 'result="refused"'

POLICY = Row(
    "Policy: does it decide?",
    (
        Panel(
            "Doubt above the floor",
            "Entropy of each head minus the floor below which it has collapsed.",
            "timeseries",
            (Query(_MARGIN, "{{group}} {{head}}"),),
            "none",
            6,
        ),
        Panel(
            "Operations",
            "What is done, as shares.",
            "timeseries",
            (
                Query(
                    f"{grown('actions_total', 'op', '10m')} / on () group_left () sum("
                    f"rate({series('actions_total')}[10m]))",
                    "{{op}}",
                ),
            ),
            "percentunit",
            5,
            stacked=True,
        ),
        Panel(
            "Choices",
            "Share of steps with more than one legal action, and of operations without effect.",
            "timeseries",
            (
                Query(top("decision_density_ratio"), "{{group}} with a choice"),
                Query(
                    f"{grown('actions_total', 'group', '10m', _REFUSED)} / {grown('actions_total', 'group', '10m')}",
                    "{{group}} refused",
                ),
            ),
            "percentunit",
            4,
        ),
        Panel(
            "Size of updates",
            "Divergence from the policy that played, and share of clipped ratios.",
            "timeseries",
            (Query(top("ppo_kl_nats"), "{{group}} KL, nats"), Query(top("ppo_clip_ratio"), "{{group}} clipped")),
            "none",
            5,
        ),
        Panel(
            "Updates",
            "Updates by result over what is shown.",
            "bargauge",
            (Query(over("ppo_updates_total", "result"), "{{result}}"),),
            "none",
            4,
        ),
    ),
    "every head is above zero, and updates stay below 0.1 nats.",
)
REWARD = Row(
    "Critic and reward: is it paid for the right thing?",
    (
        Panel(
            "Explained variance",
            "Of returns by predicted values; not shown where returns hardly vary.",
            "timeseries",
            (Query(_EXPLAINED, "{{group}}"),),
            "none",
            4,
        ),
        Panel(
            "Returns",
            "A tenth, half and nine tenths of a round's episodes are below.",
            "timeseries",
            (
                Query(top("return", "group, quantile"), "{{group}} {{quantile}}"),
                Query(top("return_mean"), "{{group}} mean"),
            ),
            "none",
            5,
        ),
        Panel(
            "Pay by what it is for",
            "Pay per step, mean of a round; the sum is the mean reward.",
            "timeseries",
            (Query(top("reward_component_mean", "group, component"), "{{group}} {{component}}"),),
            "none",
            6,
            stacked=True,
        ),
        Panel(
            "Charged for gaming",
            "Share of steps that were charged for claims beyond their worth, or for shocks, which blending causes.",
            "timeseries",
            (
                Query(
                    f"{grown('reward_gaming_total', 'group, pattern', '10m')} / on (group) group_left () "
                    f"{grown('env_steps_total', 'group', '10m')}",
                    "{{group}} {{pattern}}",
                ),
            ),
            "percentunit",
            4,
        ),
        Panel(
            "Pay follows accuracy",
            "Correlation of return and accuracy over 100 episodes.",
            "timeseries",
            (Query(top("reward_accuracy_correlation_ratio"), "{{group}}"),),
            "none",
            5,
        ),
    ),
    "values explain returns (above zero), and episodes that are paid more are more accurate.",
)
SAFETY = Row(
    "Safety and numerics: is anything broken?",
    (
        Panel(
            "Rollbacks",
            "Episodes that the governor ended, by reason, over what is shown.",
            "bargauge",
            (Query(over("rollbacks_total", "reason"), "{{reason}}"),),
            "none",
            5,
        ),
        Panel(
            "Not finite",
            "Numbers that are NaN or infinite, by kind of event.",
            "timeseries",
            (Query(f"sum by (group, where) ({series('nonfinite_total')})", "{{group}} {{where}}"),),
            "none",
            4,
        ),
        Panel(
            "Gradient of the learner",
            "Norm before clipping.",
            "timeseries",
            (Query(top("ppo_grad_norm"), "{{group}}"),),
            "none",
            4,
        ),
        Panel(
            "Faults",
            "Processes that died or failed, and what is right again.",
            "bargauge",
            (Query(over("faults_total", "kind"), "{{kind}}"),),
            "none",
            4,
        ),
        Panel(
            "Anomalies",
            "Events of kind anomaly that are not over, by type.",
            "timeseries",
            (Query(f"{top('anomalies_open', 'group, type')} > 0", "{{group}} {{type}}"),),
            "none",
            4,
        ),
        Panel(
            "Environments given up",
            "They get no more episodes.",
            "stat",
            (Query(f"{top('environments_quarantined')} or 0 * {top('rounds_target')}", "{{group}}"),),
            "none",
            3,
            ((None, "green"), (1, "red")),
        ),
    ),
    "little or nothing.",
)
SYSTEM = Row(
    "System: is the machine enough?",
    (
        Panel(
            "A round",
            "How long rounds play and learn: median and nineteen twentieths.",
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
            "A step",
            "Where the time of sampled steps goes: medians.",
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
            "GPU memory of environments",
            "What the processes of environments hold, by environment.",
            "timeseries",
            (Query(top("env_cuda_memory_bytes", "env, state", 'env=~"$env"'), "env {{env}} {{state}}"),),
            "bytes",
            4,
        ),
        Panel(
            "GPU memory",
            "Used share, by node and GPU.",
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
            "GPUs at work",
            "Utilisation, by node and GPU.",
            "timeseries",
            (Query("max by (NodeAddress, GpuIndex) (ray_node_gpus_utilization)", "{{NodeAddress}} {{GpuIndex}}"),),
            "percent",
            3,
        ),
        Panel(
            "CPUs at work",
            "Utilisation, by node.",
            "timeseries",
            (Query("max by (NodeAddress) (ray_node_cpu_utilization)", "{{NodeAddress}}"),),
            "percent",
            3,
        ),
        Panel(
            "Actors",
            "Ray's actors by state.",
            "timeseries",
            (Query("sum by (State) (ray_actors)", "{{State}}"),),
            "none",
            3,
        ),
    ),
    "rounds take as long as before, and memory stays below its limit.",
)
