"""Upper rows of the dashboard: run state, accuracy and the lifecycle of seeds."""

from esper_ray.nissa.catalogue.queries import increase, maximum, rate, series
from esper_ray.nissa.catalogue.shapes import Panel, Query, Row

_AGE = f"time() - {maximum('last_event_timestamp_seconds')}"
_LEFT = (
    f"({maximum('rounds_target')} - {maximum('rounds_done')}) "
    f"* avg by (group) (avg_over_time({series('round_duration_seconds')}[30m]))"
)
_PER_EPISODE = (
    f"{rate('seed_transitions_total', 'to_stage', '10m')} / on () group_left () "
    f"sum(rate({series('episodes_total')}[10m]))"
)
_EVIDENCE = 'delivery="evidence"'
_LOST = f"sum by (group) ({series('telemetry_dropped_total', _EVIDENCE)}) or 0 * {maximum('rounds_target')}"

RUN_STATE = Row(
    "Run state",
    (
        Panel(
            "Age of the newest event",
            "Seconds since the newest event or sample. With telemetry on, every step is a sample.",
            "stat",
            (Query(_AGE, "{{group}}"),),
            "s",
            4,
            ((None, "green"), (300, "yellow"), (600, "red")),
        ),
        Panel(
            "State",
            "State that the driver reports: training, trial, finished, interrupted or failed.",
            "state-timeline",
            (Query(maximum("run_state", "group, state"), "{{group}} {{state}}"),),
            "none",
            6,
        ),
        Panel(
            "Environment steps per second",
            "Mean over the last round, updates included. One step is one epoch of one host.",
            "timeseries",
            (Query(maximum("env_steps_per_second"), "{{group}}"),),
            "ops",
            4,
        ),
        Panel(
            "Finished rounds",
            "Finished rounds, and rounds that the run will have.",
            "stat",
            (
                Query(maximum("rounds_done"), "{{group}} done"),
                Query(maximum("rounds_target"), "{{group}} of"),
            ),
            "none",
            4,
        ),
        Panel(
            "Time remaining",
            "Estimated seconds to the end of the run, at the pace of the last half hour.",
            "stat",
            (Query(_LEFT, "{{group}}"),),
            "s",
            3,
        ),
        Panel(
            "Invalid events",
            "Events that do not match their declaration; the log keeps them. Lost samples have their own alert.",
            "stat",
            (Query(_LOST, "{{group}}"),),
            "none",
            3,
            ((None, "green"), (1, "red")),
        ),
    ),
    "the newest event is seconds old, and no event is invalid.",
)
ACCURACY = Row(
    "Accuracy",
    (
        Panel(
            "Validation accuracy by round",
            "Validation accuracy at the end of the episodes: mean, minimum, maximum, mean of ten rounds, "
            "with fossilized seeds only, and of the host without growth.",
            "timeseries",
            (
                Query(maximum("round_accuracy_ratio"), "{{group}} mean"),
                Query(maximum("round_accuracy_min_ratio"), "{{group}} minimum"),
                Query(maximum("round_accuracy_max_ratio"), "{{group}} maximum"),
                Query(maximum("round_accuracy_rolling_ratio"), "{{group}} ten rounds"),
                Query(maximum("round_committed_accuracy_ratio"), "{{group}} fossilized only"),
                Query(maximum("round_accuracy_control_ratio"), "{{group}} without growth"),
            ),
            "percentunit",
            9,
        ),
        Panel(
            "Validation accuracy by environment",
            "Validation accuracy after the newest step of each environment.",
            "timeseries",
            (Query(maximum("env_accuracy_ratio", "group, env", 'env=~"$env"'), "{{group}} env {{env}}"),),
            "percentunit",
            6,
        ),
        Panel(
            "Stagnant environments",
            "Share of environments whose best accuracy is more than ten steps old.",
            "timeseries",
            (
                Query(
                    f"sum by (group) ({maximum('env_steps_since_best', 'group, env')} > bool 10) / "
                    f"count by (group) ({maximum('env_steps_since_best', 'group, env')})",
                    "{{group}}",
                ),
            ),
            "percentunit",
            4,
        ),
        Panel(
            "Parameter ratio",
            "Total parameters divided by those of the host, mean of a round.",
            "timeseries",
            (Query(maximum("round_growth_ratio"), "{{group}}"),),
            "none",
            5,
        ),
    ),
    "the mean of ten rounds rises, and is above the accuracy of the host without growth.",
)
LIFECYCLE = Row(
    "Lifecycle",
    (
        Panel(
            "Slots by stage",
            "Number of slots in all environments, by the stage of their seed.",
            "timeseries",
            (Query(maximum("slots", "group, stage"), "{{group}} {{stage}}"),),
            "none",
            6,
            stacked=True,
        ),
        Panel(
            "Stage transitions per episode",
            "Transitions of seeds per episode, by the stage that they enter.",
            "timeseries",
            (Query(_PER_EPISODE, "to {{to_stage}}"),),
            "none",
            5,
        ),
        Panel(
            "Seed outcomes",
            "Seeds that were fossilized or pruned in the visible time range, by blueprint.",
            "bargauge",
            (Query(increase("seed_outcomes_total", "blueprint, outcome"), "{{blueprint}} {{outcome}}"),),
            "none",
            5,
        ),
        Panel(
            "Failed gate checks",
            "The eight checks that failed most often in the visible time range.",
            "bargauge",
            (Query(f"topk(8, {increase('gate_check_failures_total', 'gate, check')})", "{{gate}} {{check}}"),),
            "none",
            4,
        ),
        Panel(
            "Seed lifespan",
            "Steps from germination to the outcome: median and 90th percentile.",
            "timeseries",
            tuple(
                Query(
                    f"histogram_quantile({q}, sum by (outcome, le) (rate("
                    f"{series('seed_lifespan_steps').replace('_steps{', '_steps_bucket{')}[30m])))",
                    f"{{{{outcome}}}} {q}",
                )
                for q in (0.5, 0.9)
            ),
            "none",
            4,
        ),
        Panel(
            "Seed contribution by slot",
            "Validation accuracy with the seed minus accuracy without it.",
            "timeseries",
            (Query(maximum("slot_contribution_ratio", "group, env, slot", 'env=~"$env"'), "env {{env}} {{slot}}"),),
            "percentunit",
            8,
        ),
        Panel(
            "Seed amplitude by slot",
            "Amplitude alpha with which the seed is blended in.",
            "timeseries",
            (Query(maximum("slot_alpha_ratio", "group, env, slot", 'env=~"$env"'), "env {{env}} {{slot}}"),),
            "percentunit",
            8,
        ),
        Panel(
            "Contribution by blueprint",
            "Moving average of the contributions of fossilized seeds.",
            "bargauge",
            (Query(maximum("blueprint_contribution_ratio", "group, blueprint"), "{{group}} {{blueprint}}"),),
            "percentunit",
            4,
        ),
        Panel(
            "Vetoed germinations",
            "Germinations that were vetoed in the visible time range because they would exceed a budget, by reason.",
            "bargauge",
            (Query(increase("vetoes_total", "reason"), "{{reason}}"),),
            "none",
            4,
        ),
    ),
    "seeds advance and end FOSSILIZED or PRUNED; no stage accumulates slots.",
)
