"""Catalogue of events. Validators, Parquet files, DuckDB views and the page of events are generated from it."""

from collections.abc import Mapping

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.nissa.catalogue.shapes import CLOCK, Field, Kind
from esper_ray.nissa.catalogue.update_fields import UPDATE, UPDATE_DIAGNOSTICS

ANOMALIES = (
    "head_collapsed",
    "update_too_large",
    "update_without_steps",
    "minibatches_skipped",
    "critic_useless",
    "rollback_storm",
    "accuracy_regressed",
    "below_control",
    "nothing_grows",
    "nonfinite",
    "environment_quarantined",
)
"""Types of anomalies."""
EVENT_SCHEMA = 3
"""Version of event logs. It changes when a record of an older log would mean something else."""

_SEED = Field("seed", "int", "seed of the episode's random generators")
_HOST = (
    Field("val_loss", "float", "mean validation loss with every seed at its live amplitude", "nats", optional=True),
    Field("val_accuracy_pp", "float", "validation accuracy", "pp"),
    Field("committed_accuracy_pp", "float", "validation accuracy with fossilized seeds only", "pp"),
    Field("total_parameters", "int", "structural parameters of host and seeds", "parameters"),
    Field("growth_ratio", "float", "total parameters divided by those of the host", "ratio"),
)
_SLOT = Field("slot", "text", "slot by row and column, such as r0c1")
_SEED_ID = Field("seed", "text", "seed: its slot and its number there", optional=True)
_ENTRY = (
    Field("source", "text", "component of the reward"),
    Field("slot", "text", "slot of the seed that the entry is about", optional=True),
    Field("amount", "float", "amount", "reward"),
    Field("cause_step", "int", "step that caused it, from 0", "steps"),
    Field("why", "text", "the reason in words"),
)
_REPORT = (
    Field("seed", "text", "seed in the slot"),
    Field("blueprint", "text", "blueprint of the seed"),
    Field("stage", "text", "stage of the seed"),
    Field("alpha", "float", "amplitude with which the seed is blended in", "share"),
    Field("contribution_pp", "float", "validation accuracy with the seed minus without it", "pp", optional=True),
    Field("contribution_error_pp", "float", "paired standard error of that", "pp", optional=True),
    Field(
        "gradient_health", "float", "1 minus penalties for vanishing and exploding gradients", "ratio", optional=True
    ),
    Field("parameters", "int", "structural parameters", "parameters"),
)
_CHECK = (
    Field("name", "text", "name of the check"),
    Field("value", "float", "measured value", optional=True),
    Field("threshold", "float", "required value", optional=True),
    Field("margin", "float", "distance to the threshold; negative if it failed", optional=True),
    Field("passed", "bool", "whether the check passed"),
)
_ROUND = (
    Field("episodes", "int", "episodes in the update", "episodes"),
    Field("env_steps", "int", "environment steps since the run began", "steps"),
    Field("staleness", "int", "rounds by which the behaviour policy was stale", "rounds"),
    Field("return_mean", "float", "mean return of the episodes", "reward"),
    Field("return_std", "float", "standard deviation of the returns", "reward"),
    Field("val_accuracy_ratio", "float", "mean validation accuracy at the end of the episodes", "share"),
    Field("committed_accuracy_ratio", "float", "the same, with fossilized seeds only", "share"),
    Field("growth_ratio", "float", "mean of total parameters divided by those of the host", "ratio"),
    Field("fossilised_mean", "float", "mean number of fossilized seeds"),
    Field("refused", "int", "steps whose operation had no effect", "steps"),
    Field("rollbacks", "int", "episodes that the governor ended", "episodes"),
    *(Field(f"op_{op.name.lower()}", "int", f"steps with {op.name}", "steps") for op in LifecycleOp),
)

_TIME = Field("time", "float", "Unix time of the sample", "seconds")
_SAMPLES = (
    Kind(
        "decision",
        "Probabilities and values of the policy before a step: at every operation but WAIT, and at some WAITs.",
        CLOCK,
        (
            _TIME,
            Field("operation", "text", "chosen operation"),
            Field("slot", "text", "chosen slot", optional=True),
            Field("probability", "float", "probability of the operation", "share"),
            Field("argument_probability", "float", "probability of slot and arguments given the operation", "share"),
            Field("operations", "floats by name", "probability of each legal operation", "share"),
            Field("values", "floats by name", "Q of each legal operation, of rewards minus their offset", "reward"),
            Field("value", "float", "V of the state, of rewards minus their offset", "reward"),
            Field(
                "heads",
                "records by name",
                "the chosen index of each head in use",
                fields=(
                    Field("choice", "int", "chosen index"),
                    Field("probability", "float", "probability of the choice given the heads before", "share"),
                    Field("entropy", "float", "entropy of the head given the heads before", "nats"),
                    Field("legal", "int", "number of legal choices"),
                ),
                added=True,
            ),
        ),
        "sample",
    ),
    Kind(
        "profile",
        "Duration of a step by phase, and memory of its device.",
        CLOCK,
        (
            _TIME,
            Field(
                "seconds", "floats by name", "wall time by phase: decide, execute, train, measure, settle", "seconds"
            ),
            Field("cuda_bytes", "floats by name", "memory of the process: allocated, reserved, peak", "bytes"),
        ),
        "sample",
    ),
    Kind(
        "samples_lost",
        "Samples of an environment that were dropped.",
        ("round", "episode", "env"),
        (
            _TIME,
            Field("count", "int", "number of dropped samples"),
            Field("reason", "text", "in_transit: the telemetry actor was busy or died; full: the log is full"),
        ),
        "sample",
    ),
)

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("run_started", "The run starts.", (), (Field("config_sha256", "text", "digest of the configuration"),)),
        Kind(
            "host",
            "The host network of the run before anything has grown in it.",
            (),
            (
                Field("parameters", "int", "structural parameters", "parameters"),
                Field(
                    "layers",
                    "records",
                    "its modules without children and its slots, in the order of the forward pass",
                    fields=(
                        Field("name", "text", "qualified name of the module"),
                        Field("module", "text", "class of the module"),
                        Field("shape", "ints", "shape of its output for one example; empty if unknown"),
                        Field("parameters", "int", "structural parameters", "parameters"),
                        Field("slot", "text", "slot behind the module", optional=True),
                    ),
                ),
            ),
        ),
        Kind(
            "episode_started",
            "An environment starts an episode with a fresh host.",
            CLOCK,
            (_SEED, *_HOST),
        ),
        Kind(
            "control",
            "Training of the same host without growth: same seed, same data, same order.",
            CLOCK,
            (
                _SEED,
                Field("val_accuracy_pp", "float", "validation accuracy at its end", "pp"),
                Field("curve_pp", "floats", "validation accuracy before the first step and after each", "pp"),
            ),
        ),
        Kind(
            "seed_transition",
            "A seed enters another stage.",
            CLOCK,
            (
                _SLOT,
                _SEED_ID,
                Field("from", "text", "stage that it leaves"),
                Field("to", "text", "stage that it enters"),
                Field("ticks", "int", "time in the stage that it leaves", "steps"),
                Field("reason", "text", "reason, if the transition is not the regular one"),
                Field("initiator", "text", "initiator: policy or clock"),
                Field("blueprint", "text", "blueprint of the seed", optional=True),
            ),
        ),
        Kind(
            "gate",
            "A gate between two stages is evaluated.",
            CLOCK,
            (
                _SLOT,
                _SEED_ID,
                Field("gate", "text", "G0 to G5"),
                Field("passed", "bool", "whether all checks passed"),
                Field("checks", "records", "checks of the gate", fields=_CHECK),
            ),
        ),
        Kind(
            "veto",
            "A germination is vetoed because it would exceed a budget.",
            CLOCK,
            (
                _SLOT,
                Field("reason", "text", "budget that it would exceed"),
                Field("value", "float", "value that it would reach"),
                Field("limit", "float", "limit of the budget"),
            ),
        ),
        Kind(
            "rollback",
            "The governor restores the last good snapshot and ends the episode.",
            CLOCK,
            (
                Field("reason", "text", "vital sign that failed"),
                Field("value", "float", "measured value", optional=True),
                Field("threshold", "float", "threshold", optional=True),
            ),
        ),
        Kind(
            "env_epoch",
            "One step of an environment: action, result and reward.",
            CLOCK,
            (
                Field("operation", "text", "executed operation; WAIT if the action was illegal"),
                Field("slot", "text", "slot of the operation", optional=True),
                Field("success", "bool", "whether the operation had its effect"),
                Field("action", "ints", "indices of the eight heads"),
                Field("why", "text", "reason that the policy gives, if any"),
                Field("log_prob", "float", "log-probability of the whole action", "nats"),
                Field("value", "float", "V of the state before the step, of rewards minus their offset", "reward"),
                Field("reward", "float", "sum of the entries", "reward"),
                Field("entries", "records", "entries of the ledger", fields=_ENTRY),
                Field("train_loss", "float", "mean loss over the epoch", "nats", optional=True),
                *_HOST,
                Field("slots", "records by name", "report of each occupied slot", fields=_REPORT),
            ),
        ),
        Kind(
            "counterfactual",
            "Accuracy of subsets of the seeds at the end of an episode.",
            CLOCK,
            (
                Field("players", "texts", "slots that were switched"),
                Field("examples", "int", "examples of the validation split"),
                Field("complete", "bool", "whether every coalition was measured"),
                Field(
                    "coalitions",
                    "records",
                    "measured coalitions",
                    fields=(
                        Field("members", "texts", "slots that were on"),
                        Field("accuracy_pp", "float", "validation accuracy", "pp"),
                    ),
                ),
            ),
        ),
        Kind(
            "attribution",
            "Value of each seed at the end of an episode; what was not measured is null, not zero.",
            CLOCK,
            (
                Field("method", "text", "exact: Shapley values from every coalition; orders: means over random orders"),
                Field("orders", "int", "number of random orders"),
                Field(
                    "slots",
                    "records",
                    "values by slot",
                    fields=(
                        Field("slot", "text", "slot by row and column, such as r0c1"),
                        Field("shapley_pp", "float", "Shapley value", "pp", optional=True),
                        Field("shapley_error_pp", "float", "its standard error", "pp", optional=True),
                        Field("leave_one_out_pp", "float", "accuracy of all minus that of the others", optional=True),
                    ),
                ),
                Field(
                    "pairs",
                    "records",
                    "interactions of pairs",
                    fields=(
                        Field("first", "text", "slot"),
                        Field("second", "text", "slot"),
                        Field("interaction_pp", "float", "both, minus each alone, plus none", optional=True),
                    ),
                ),
            ),
        ),
        Kind(
            "outcome",
            "An episode ends.",
            CLOCK,
            (
                _SEED,
                Field("total_reward", "float", "its return, undiscounted", "reward"),
                Field("reward_by_source", "floats by name", "reward by component", "reward"),
                Field("fossilised", "texts", "slots with a fossilized seed"),
                Field("rollback", "bool", "whether the governor ended the episode"),
                *_HOST,
            ),
        ),
        Kind(
            "environment_quarantined",
            "An environment failed repeatedly and is quarantined.",
            ("round", "env"),
            (Field("error", "text", "last error"),),
        ),
        Kind("ppo_update", "The learner finishes the update of a round.", ("round",), (*UPDATE, *UPDATE_DIAGNOSTICS)),
        Kind("round", "A round ends.", ("round",), (*_ROUND, *UPDATE)),
        Kind(
            "anomaly",
            "An anomaly starts or ends.",
            ("round",),
            (
                Field("type", "text", f"one of {', '.join(ANOMALIES)}"),
                Field("open", "bool", "true at its start, false at its end"),
                Field("subject", "text", "subject, where there are several, such as a head", optional=True),
                Field("value", "float", "measured value", optional=True),
                Field("threshold", "float", "threshold of the anomaly", optional=True),
                Field("rounds", "int", "duration at its end", "rounds"),
            ),
        ),
        Kind(
            "run_finished",
            "The run finishes its last round.",
            (),
            (Field("policy_sha256", "text", "digest of the weights, normalizer included"),),
        ),
        Kind(
            "malformed",
            "A record that does not match its declaration, kept unchanged.",
            (),
            (
                Field("problem", "text", "first difference from the declaration"),
                Field("record", "text", "the record, as JSON"),
            ),
        ),
        *_SAMPLES,
    )
}
"""Kinds by name."""
