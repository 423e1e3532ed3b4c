"""The upper rows of the dashboard: is the run alive, does it learn, what grows?"""

from esper_ray.nissa.catalogue.queries import grown, over, series, top
from esper_ray.nissa.catalogue.shapes import Panel, Query, Row

_AGE = f"time() - {top('last_event_timestamp_seconds')}"
_LEFT = (
    f"({top('rounds_target')} - {top('rounds_done')}) "
    f"* avg by (group) (avg_over_time({series('round_duration_seconds')}[30m]))"
)
_PER_EPISODE = (
    f"{grown('seed_transitions_total', 'to_stage', '10m')} / on () group_left () "
    f"sum(rate({series('episodes_total')}[10m]))"
)
_EVIDENCE = 'delivery="evidence"'
_LOST = f"sum by (group) ({series('telemetry_dropped_total', _EVIDENCE)}) or 0 * {top('rounds_target')}"

PULSE = Row(
    "Pulse: is it alive?",
    (
        Panel(
            "Newest event",
            "Seconds since anything happened: a step, where telemetry is on.",
            "stat",
            (Query(_AGE, "{{group}}"),),
            "s",
            4,
            ((None, "green"), (300, "yellow"), (600, "red")),
        ),
        Panel(
            "State",
            "What the run says of itself.",
            "state-timeline",
            (Query(top("run_state", "group, state"), "{{group}} {{state}}"),),
            "none",
            6,
        ),
        Panel(
            "Steps per second",
            "Environment steps: one is one epoch of one host. Of the last round, learning included.",
            "timeseries",
            (Query(top("env_steps_per_second"), "{{group}}"),),
            "ops",
            4,
        ),
        Panel(
            "Rounds",
            "Rounds that are finished, and that there are to be.",
            "stat",
            (
                Query(top("rounds_done"), "{{group}} done"),
                Query(top("rounds_target"), "{{group}} of"),
            ),
            "none",
            4,
        ),
        Panel(
            "Left",
            "Seconds to the last round, at the pace of the last half hour.",
            "stat",
            (Query(_LEFT, "{{group}}"),),
            "s",
            3,
        ),
        Panel(
            "Events amiss",
            "Events that are not as declared; they are in the log all the same. Samples have an alert of their own.",
            "stat",
            (Query(_LOST, "{{group}}"),),
            "none",
            3,
            ((None, "green"), (1, "red")),
        ),
    ),
    "the newest event is seconds old, and nothing is lost.",
)
TASK = Row(
    "Task: does it learn?",
    (
        Panel(
            "Accuracy of a round",
            "Validation accuracy at the end of the episodes: mean, span, mean of ten rounds, "
            "with fossilised seeds only, and what the host learns without growth.",
            "timeseries",
            (
                Query(top("round_accuracy_ratio"), "{{group}} mean"),
                Query(top("round_accuracy_min_ratio"), "{{group}} lowest"),
                Query(top("round_accuracy_max_ratio"), "{{group}} highest"),
                Query(top("round_accuracy_rolling_ratio"), "{{group}} ten rounds"),
                Query(top("round_committed_accuracy_ratio"), "{{group}} fossilised only"),
                Query(top("round_accuracy_control_ratio"), "{{group}} without growth"),
            ),
            "percentunit",
            9,
        ),
        Panel(
            "Accuracy of environments",
            "Validation accuracy of every environment's newest step.",
            "timeseries",
            (Query(top("env_accuracy_ratio", "group, env", 'env=~"$env"'), "{{group}} env {{env}}"),),
            "percentunit",
            6,
        ),
        Panel(
            "Without progress",
            "Share of environments whose best accuracy is more than ten steps old.",
            "timeseries",
            (
                Query(
                    f"sum by (group) ({top('env_steps_since_best', 'group, env')} > bool 10) / "
                    f"count by (group) ({top('env_steps_since_best', 'group, env')})",
                    "{{group}}",
                ),
            ),
            "percentunit",
            4,
        ),
        Panel(
            "Growth",
            "Total parameters over those of the host: mean of a round.",
            "timeseries",
            (Query(top("round_growth_ratio"), "{{group}}"),),
            "none",
            5,
        ),
    ),
    "the mean of ten rounds rises, and is above what the host learns without growth.",
)
LIFECYCLE = Row(
    "Lifecycle: what grows, and where does it get stuck?",
    (
        Panel(
            "Slots by stage",
            "Slots of all environments by the stage of their seed.",
            "timeseries",
            (Query(top("slots", "group, stage"), "{{group}} {{stage}}"),),
            "none",
            6,
            stacked=True,
        ),
        Panel(
            "Transitions",
            "Changes of stage in an episode, by where they lead.",
            "timeseries",
            (Query(_PER_EPISODE, "to {{to_stage}}"),),
            "none",
            5,
        ),
        Panel(
            "Kept and pruned",
            "Ends of seeds over what is shown.",
            "bargauge",
            (Query(over("seed_outcomes_total", "blueprint, outcome"), "{{blueprint}} {{outcome}}"),),
            "none",
            5,
        ),
        Panel(
            "What keeps gates shut",
            "Failed checks over what is shown.",
            "bargauge",
            (Query(f"topk(8, {over('gate_check_failures_total', 'gate, check')})", "{{gate}} {{check}}"),),
            "none",
            4,
        ),
        Panel(
            "Length of lives",
            "Steps from germination to the end: median and nine tenths.",
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
            "Contribution of slots",
            "Accuracy with a seed minus without, by environment and slot.",
            "timeseries",
            (Query(top("slot_contribution_ratio", "group, env, slot", 'env=~"$env"'), "env {{env}} {{slot}}"),),
            "percentunit",
            8,
        ),
        Panel(
            "Amplitude of slots",
            "How far each seed is blended in.",
            "timeseries",
            (Query(top("slot_alpha_ratio", "group, env, slot", 'env=~"$env"'), "env {{env}} {{slot}}"),),
            "percentunit",
            8,
        ),
        Panel(
            "Worth of blueprints",
            "Moving average of what fossilised seeds contributed.",
            "bargauge",
            (Query(top("blueprint_contribution_ratio", "group, blueprint"), "{{group}} {{blueprint}}"),),
            "percentunit",
            4,
        ),
        Panel(
            "Vetoes",
            "Germinations that would have cost too much, over what is shown.",
            "bargauge",
            (Query(over("vetoes_total", "reason"), "{{reason}}"),),
            "none",
            4,
        ),
    ),
    "seeds move on and end FOSSILIZED or PRUNED; none of the stages only fills up.",
)
