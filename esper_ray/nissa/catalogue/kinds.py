"""Every kind of event, once. Validators, Parquet files, DuckDB views and ``docs/events.md`` follow from here."""

from collections.abc import Mapping

from esper_ray.leyline.actions import HEADS, LifecycleOp
from esper_ray.nissa.catalogue.shapes import CLOCK, Field, Kind

ANOMALIES = (
    "head_collapsed",
    "update_too_large",
    "update_without_steps",
    "critic_useless",
    "rollback_storm",
    "accuracy_regressed",
    "below_control",
    "nothing_grows",
    "nonfinite",
    "environment_given_up",
)
"""Types of anomalies."""
EVENT_SCHEMA = 2
"""Of event logs. It changes when a record of an older log would mean something else."""

_SEED = Field("seed", "int", "what the episode is a function of, besides its actions")
_HOST = (
    Field("val_loss", "float", "mean validation loss with every seed at its live amplitude", "nats", optional=True),
    Field("val_accuracy_pp", "float", "validation accuracy", "pp"),
    Field("committed_accuracy_pp", "float", "validation accuracy with fossilised seeds only", "pp"),
    Field("total_parameters", "int", "structural parameters of host and seeds", "parameters"),
    Field("growth_ratio", "float", "total parameters over those of the host", "ratio"),
)
_SLOT = Field("slot", "text", "slot, by row and column")
_SEED_ID = Field("seed", "text", "seed: its slot and how many germinated there before", optional=True)
_ENTRY = (
    Field("source", "text", "what kind of pay it is"),
    Field("slot", "text", "whose seed it is about", optional=True),
    Field("amount", "float", "how much", "reward"),
    Field("cause_step", "int", "step that is answerable for it, from 0", "steps"),
    Field("why", "text", "the reason in words"),
)
_REPORT = (
    Field("seed", "text", "seed in the slot"),
    Field("blueprint", "text", "what it is made of"),
    Field("stage", "text", "stage of its life"),
    Field("alpha", "float", "amplitude with which it is blended in", "share"),
    Field("contribution_pp", "float", "validation accuracy with it minus without it", "pp", optional=True),
    Field("contribution_error_pp", "float", "paired standard error of that", "pp", optional=True),
    Field(
        "gradient_health", "float", "1 minus penalties for vanishing and exploding gradients", "ratio", optional=True
    ),
    Field("parameters", "int", "structural parameters", "parameters"),
)
_CHECK = (
    Field("name", "text", "what was checked"),
    Field("value", "float", "what was found", optional=True),
    Field("threshold", "float", "what was wanted", optional=True),
    Field("margin", "float", "by how much it passed; negative if it did not", optional=True),
    Field("passed", "bool", "whether it did"),
)
_UPDATE = (
    Field("policy_loss", "float", "mean surrogate loss", "nats"),
    Field("value_loss", "float", "mean loss of the critic in units of scaled returns"),
    Field("entropy", "float", "mean entropy of a whole action", "nats"),
    Field("kl", "float", "mean divergence from the policy that played", "nats"),
    Field("clip_share", "float", "share of ratios that were clipped", "share"),
    Field("grad_norm", "float", "mean gradient norm before clipping"),
    Field("explained_variance", "float", "of the returns by the values that were predicted when playing", "ratio"),
    Field("return_variance", "float", "variance of the returns"),
    Field("low_variance", "float", "1 where returns hardly vary, so that explained variance says nothing"),
    Field("optimizer_steps", "int", "steps of the optimiser"),
    Field("stopped_by_kl", "float", "1 if the update was ended before a step that would have diverged"),
    Field("epsilon", "float", "share of random legal actions in what was played", "share"),
    Field("entropy_coefficient", "float", "weight of the entropy bonus"),
    *(Field(f"entropy_{head}", "float", f"entropy of {head} where it had a choice", "nats") for head in HEADS),
)
_ROUND = (
    Field("episodes", "int", "episodes that were learnt from", "episodes"),
    Field("env_steps", "int", "environment steps since the run began", "steps"),
    Field("staleness", "int", "rounds by which the policy that played was behind", "rounds"),
    Field("return_mean", "float", "mean return of the episodes", "reward"),
    Field("return_std", "float", "standard deviation of the returns", "reward"),
    Field("val_accuracy_ratio", "float", "mean validation accuracy at the end of the episodes", "share"),
    Field("committed_accuracy_ratio", "float", "the same with fossilised seeds only", "share"),
    Field("growth_ratio", "float", "mean of total parameters over those of the host", "ratio"),
    Field("fossilised_mean", "float", "mean number of fossilised seeds"),
    Field("refused", "int", "steps whose operation had no effect", "steps"),
    Field("rollbacks", "int", "episodes that the governor ended", "episodes"),
    *(Field(f"op_{op.name.lower()}", "int", f"steps with {op.name}", "steps") for op in LifecycleOp),
)

_TIME = Field("time", "float", "Unix time at which it was taken", "seconds")
_SAMPLES = (
    Kind(
        "decision",
        "What the policy thought before a step: whenever something is done, and now and then else.",
        CLOCK,
        (
            _TIME,
            Field("operation", "text", "what it asked for"),
            Field("slot", "text", "for which slot", optional=True),
            Field("probability", "float", "of the operation", "share"),
            Field("argument_probability", "float", "of slot and arguments given the operation", "share"),
            Field("operations", "floats by name", "probability of each legal operation", "share"),
            Field("values", "floats by name", "Q of each legal operation", "reward"),
            Field("value", "float", "V of the state", "reward"),
        ),
        "sample",
    ),
    Kind(
        "profile",
        "Where the time of a step went, and the memory of its device.",
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
        "Samples of an environment that nobody took in time, or that there was no room for.",
        ("round", "episode", "env"),
        (
            _TIME,
            Field("count", "int", "how many"),
            Field("reason", "text", "in_transit: the telemetry actor was busy or died; full: of the log"),
        ),
        "sample",
    ),
)

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("run_started", "A run begins.", (), (Field("config_sha256", "text", "digest of its configuration"),)),
        Kind(
            "episode_started",
            "An environment begins an episode: a fresh host.",
            CLOCK,
            (_SEED, *_HOST),
        ),
        Kind(
            "control",
            "What the host of an episode learns without growth: same seed, same data, same order.",
            CLOCK,
            (
                _SEED,
                Field("val_accuracy_pp", "float", "validation accuracy at its end", "pp"),
                Field("curve_pp", "floats", "validation accuracy before the first step and after each", "pp"),
            ),
        ),
        Kind(
            "seed_transition",
            "A seed goes from one stage of its life to another.",
            CLOCK,
            (
                _SLOT,
                _SEED_ID,
                Field("from", "text", "stage that it leaves"),
                Field("to", "text", "stage that it enters"),
                Field("ticks", "int", "how long it was in the stage that it leaves", "steps"),
                Field("reason", "text", "why, where it is not the plain course of things"),
                Field("initiator", "text", "policy or clock"),
                Field("blueprint", "text", "what it is made of", optional=True),
            ),
        ),
        Kind(
            "gate",
            "A gate between two stages is tried.",
            CLOCK,
            (
                _SLOT,
                _SEED_ID,
                Field("gate", "text", "G0 to G5"),
                Field("passed", "bool", "whether it opened"),
                Field("checks", "records", "what it looked at", fields=_CHECK),
            ),
        ),
        Kind(
            "veto",
            "A germination is refused before it is tried, because it would cost too much.",
            CLOCK,
            (
                _SLOT,
                Field("reason", "text", "what it would break"),
                Field("value", "float", "what it would come to"),
                Field("limit", "float", "what is allowed"),
            ),
        ),
        Kind(
            "rollback",
            "The governor goes back to the last state that it trusted and ends the episode.",
            CLOCK,
            (
                Field("reason", "text", "what was wrong"),
                Field("value", "float", "what was measured", optional=True),
                Field("threshold", "float", "what was allowed", optional=True),
            ),
        ),
        Kind(
            "env_epoch",
            "One step of an environment: what was decided, what came of it, what it was paid.",
            CLOCK,
            (
                Field("operation", "text", "what was done; WAIT if what was asked for was illegal"),
                Field("slot", "text", "to which slot", optional=True),
                Field("success", "bool", "whether it had its effect"),
                Field("action", "ints", "indices of the eight heads"),
                Field("why", "text", "reason of a policy that gives reasons"),
                Field("log_prob", "float", "log-probability of the whole action", "nats"),
                Field("value", "float", "V of the state before the step", "reward"),
                Field("reward", "float", "sum of the entries", "reward"),
                Field("entries", "records", "what was paid", fields=_ENTRY),
                Field("train_loss", "float", "mean loss over the epoch", "nats", optional=True),
                *_HOST,
                Field("slots", "records by name", "what lives in each occupied slot", fields=_REPORT),
            ),
        ),
        Kind(
            "counterfactual",
            "What the network at the end of an episode does with some of its seeds only.",
            CLOCK,
            (
                Field("players", "texts", "slots that were switched on and off"),
                Field("examples", "int", "of the validation split"),
                Field("complete", "bool", "whether every coalition was measured"),
                Field(
                    "coalitions",
                    "records",
                    "those that were",
                    fields=(
                        Field("members", "texts", "slots that were on"),
                        Field("accuracy_pp", "float", "validation accuracy", "pp"),
                    ),
                ),
            ),
        ),
        Kind(
            "attribution",
            "What each seed is worth at the end of an episode; what was not measured is null, not zero.",
            CLOCK,
            (
                Field("method", "text", "exact: Shapley values from every coalition; orders: means over random orders"),
                Field("orders", "int", "how many random orders"),
                Field(
                    "slots",
                    "records",
                    "the seeds",
                    fields=(
                        Field("slot", "text", "slot, by row and column"),
                        Field("shapley_pp", "float", "Shapley value", "pp", optional=True),
                        Field("shapley_error_pp", "float", "its standard error", "pp", optional=True),
                        Field("leave_one_out_pp", "float", "accuracy of all minus that of the others", optional=True),
                    ),
                ),
                Field(
                    "pairs",
                    "records",
                    "how they get on",
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
            "An episode is over.",
            CLOCK,
            (
                _SEED,
                Field("total_reward", "float", "its return, undiscounted", "reward"),
                Field("reward_by_source", "floats by name", "what it was paid for", "reward"),
                Field("fossilised", "texts", "slots with a fossilised seed"),
                Field("rollback", "bool", "whether the governor ended it"),
                *_HOST,
            ),
        ),
        Kind(
            "environment_quarantined",
            "An environment failed again and again and gets no more episodes.",
            ("round", "env"),
            (Field("error", "text", "its last error"),),
        ),
        Kind("ppo_update", "The learner has learnt from a round.", ("round",), _UPDATE),
        Kind("round", "A round is over.", ("round",), (*_ROUND, *_UPDATE)),
        Kind(
            "anomaly",
            "Something that should not be has begun, or is over.",
            ("round",),
            (
                Field("type", "text", f"one of {', '.join(ANOMALIES)}"),
                Field("open", "bool", "whether it has begun, or is over"),
                Field("subject", "text", "what it is about, where there are several, such as a head", optional=True),
                Field("value", "float", "what was found", optional=True),
                Field("threshold", "float", "where it begins", optional=True),
                Field("rounds", "int", "how long it has lasted", "rounds"),
            ),
        ),
        Kind(
            "run_finished",
            "All rounds are done.",
            (),
            (Field("policy_sha256", "text", "digest of the weights, normaliser included"),),
        ),
        Kind(
            "malformed",
            "A record that is not as it is declared. It is kept as it was given.",
            (),
            (
                Field("problem", "text", "what is wrong with it"),
                Field("record", "text", "the record, as JSON"),
            ),
        ),
        *_SAMPLES,
    )
}
"""By name."""
