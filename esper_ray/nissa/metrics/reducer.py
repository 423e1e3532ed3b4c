"""From events to metrics: what each record changes. No clock and no output in here, so that a log folded again
gives the same numbers.
"""

import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np

from esper_ray.leyline.actions import HEADS
from esper_ray.leyline.records import Record
from esper_ray.leyline.stages import Stage
from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.catalogue.metrics import ENTROPY_FLOORS, GAMING

ROLLING_ROUNDS = 10
CORRELATED_EPISODES = 100
QUANTILES = (0.1, 0.5, 0.9)
ENV_LABELS = 64
"""Environments from this number on have no metrics of their own; they count in the others."""
_EMA = 0.2


@dataclass(frozen=True, slots=True)
class Change:
    """A counter grows by ``value``, a gauge becomes it, a histogram sees it."""

    metric: str
    value: float
    labels: tuple[str, ...] = ()
    """Values of the metric's own labels, in their order."""


@dataclass(slots=True)
class _Env:
    """What is remembered of an environment's present episode."""

    best_pp: float = -math.inf
    best_step: int = 0
    stages: dict[str, Stage] = field(default_factory=dict)
    born: dict[str, int] = field(default_factory=dict)
    """Step of germination by seed."""
    worth_pp: dict[str, float] = field(default_factory=dict)
    """Last contribution by seed."""


class MetricsReducer:
    """Follows one run."""

    def __init__(self, slots: Sequence[str], choices: Mapping[str, int]) -> None:
        """
        Args:
            slots: of every environment.
            choices: how many legal choices a head has at most, by head.
        """
        self._slots, self._choices = tuple(slots), dict(choices)
        self._envs: dict[int, _Env] = defaultdict(_Env)
        self._seen: dict[int, tuple[int, _Env]] = {}
        """Of each environment the episode that is being watched, and what is known of it ahead of its end."""
        self._open: Counter[str] = Counter()
        self._controls: list[float] = []
        self._rounds: deque[float] = deque(maxlen=ROLLING_ROUNDS)
        self._episodes: deque[tuple[float, float]] = deque(maxlen=CORRELATED_EPISODES)
        self._worth: dict[str, float] = {}
        self._of_round: list[Record] = []
        self._steps, self._open_steps = 0, 0
        self._paid: Counter[str] = Counter()
        self._quarantined = 0

    def changes(self, record: Record) -> Iterator[Change]:
        """What ``record`` changes. Records of one environment must come in their order."""
        kind = record["kind"]
        yield Change("esper_telemetry_events_total", 1, (KINDS[kind].delivery,))
        if record.get("nonfinite"):
            yield Change("esper_nonfinite_total", len(record["nonfinite"]), (kind,))
        teller = _TELLERS.get(kind)
        if teller is not None:
            yield from teller(self, record)

    def preview(self, record: Record) -> Iterator[Change]:
        """What an ``env_epoch`` shows while its episode is still being played. Nothing is counted."""
        number, episode = record["env"], record["episode"]
        watched, env = self._seen.get(number, (-1, _Env()))
        if watched > episode:
            return  # it was overtaken by the end of its episode
        if watched != episode:
            env = _Env()
        self._seen[number] = (episode, env)
        yield from self._state(record, env)

    def _episode_started(self, record: Record) -> Iterator[Change]:
        self._envs[record["env"]] = env = _Env(record["val_accuracy_pp"], 0)
        self._seen[record["env"]] = (record["episode"] + 1, _Env())  # all of it is told now
        yield from self._host(record, env)
        yield from self._slot_counts()

    def _control(self, record: Record) -> Iterator[Change]:
        self._controls.append(record["val_accuracy_pp"] / 100.0)
        yield Change("esper_round_accuracy_control_ratio", fmean(self._controls))

    def _transition(self, record: Record) -> Iterator[Change]:
        env, source, target = self._envs[record["env"]], record["from"], record["to"]
        env.stages[record["slot"]] = Stage[target]
        yield Change("esper_seed_transitions_total", 1, (source, target))
        if target == "GERMINATED":
            env.born[record["seed"]] = record["step"]
        if target in ("FOSSILIZED", "PRUNED"):
            outcome, blueprint = target.lower(), record["blueprint"] or "unknown"
            yield Change("esper_seed_outcomes_total", 1, (blueprint, outcome, record["initiator"]))
            if record["seed"] in env.born:
                yield Change("esper_seed_lifespan_steps", record["step"] - env.born[record["seed"]], (outcome,))
            worth = env.worth_pp.get(record["seed"])
            if target == "FOSSILIZED" and worth is not None:
                before = self._worth.get(blueprint, worth)
                self._worth[blueprint] = before + _EMA * (worth - before)
                yield Change("esper_blueprint_contribution_ratio", self._worth[blueprint] / 100.0, (blueprint,))
        yield from self._slot_counts()

    def _gate(self, record: Record) -> Iterator[Change]:
        result = "pass" if record["passed"] else "fail"
        yield Change("esper_gate_evaluations_total", 1, (record["gate"], result))
        for check in record["checks"]:
            if not check["passed"]:
                yield Change("esper_gate_check_failures_total", 1, (record["gate"], check["name"]))

    def _veto(self, record: Record) -> Iterator[Change]:
        yield Change("esper_vetoes_total", 1, (record["reason"],))

    def _rollback(self, record: Record) -> Iterator[Change]:
        yield Change("esper_rollbacks_total", 1, (record["reason"],))

    def _step(self, record: Record) -> Iterator[Change]:
        self._steps += 1
        self._open_steps += record["log_prob"] != 0.0
        for entry in record["entries"]:
            self._paid[entry["source"]] += entry["amount"]
            if entry["source"] in GAMING and entry["amount"] < 0:
                yield Change("esper_reward_gaming_total", 1, (GAMING[entry["source"]],))
        yield Change("esper_env_steps_total", 1)
        result = "ok" if record["success"] else "refused"
        yield Change("esper_actions_total", 1, (record["operation"], result))
        yield from self._state(record, self._envs[record["env"]])

    def _state(self, record: Record, env: _Env) -> Iterator[Change]:
        """What a step has led to."""
        if record["val_accuracy_pp"] > env.best_pp:
            env.best_pp, env.best_step = record["val_accuracy_pp"], record["step"]
        yield from self._host(record, env)
        if record["env"] < ENV_LABELS:
            yield from self._slots_of(record, env)

    def _slots_of(self, record: Record, env: _Env) -> Iterator[Change]:
        name = str(record["env"])
        for slot in self._slots:
            report = record["slots"].get(slot)
            stage = Stage[report["stage"]] if report else Stage.DORMANT
            env.stages[slot] = stage
            yield Change("esper_slot_stage_code", 0 if report is None else int(stage), (name, slot))
            yield Change("esper_slot_alpha_ratio", report["alpha"] if report else 0.0, (name, slot))
            worth = report["contribution_pp"] if report else None
            if report and worth is not None:
                env.worth_pp[report["seed"]] = worth
            yield Change("esper_slot_contribution_ratio", (worth or 0.0) / 100.0, (name, slot))

    def _host(self, record: Record, env: _Env) -> Iterator[Change]:
        if record["env"] >= ENV_LABELS:
            return
        name = (str(record["env"]),)
        yield Change("esper_env_accuracy_ratio", record["val_accuracy_pp"] / 100.0, name)
        yield Change("esper_env_best_accuracy_ratio", env.best_pp / 100.0, name)
        yield Change("esper_env_steps_since_best", record["step"] - env.best_step, name)
        yield Change("esper_env_growth_ratio", record["growth_ratio"], name)
        if record["val_loss"] is not None:
            yield Change("esper_env_val_loss_nats", record["val_loss"], name)

    def _slot_counts(self) -> Iterator[Change]:
        stages = Counter(stage for env in self._envs.values() for stage in env.stages.values())
        empty = len(self._envs) * len(self._slots) - sum(stages.values())
        for stage in list(Stage)[1:]:
            count = stages[stage] + (empty if stage is Stage.DORMANT else 0)
            yield Change("esper_slots", count, (stage.name,))

    def _outcome(self, record: Record) -> Iterator[Change]:
        self._of_round.append(record)
        self._episodes.append((record["total_reward"], record["val_accuracy_pp"]))
        yield Change("esper_episodes_total", 1, ("rolled_back" if record["rollback"] else "finished",))
        if len(self._episodes) > 2:
            returns, accuracies = np.array(self._episodes).T
            if returns.std() > 0 and accuracies.std() > 0:
                found = float(np.corrcoef(returns, accuracies)[0, 1])
                yield Change("esper_reward_accuracy_correlation_ratio", found)

    def _quarantine(self, record: Record) -> Iterator[Change]:
        self._quarantined += 1
        yield Change("esper_environments_quarantined", self._quarantined)

    def _update(self, record: Record) -> Iterator[Change]:
        stopped, steps = record["stopped_by_kl"] == 1.0, record["optimizer_steps"]
        result = "nothing" if not steps else "early_stopped" if stopped else "applied"
        yield Change("esper_ppo_updates_total", 1, (result,))
        for name, field_name in _OF_UPDATE.items():
            if record[field_name] is not None:
                yield Change(name, record[field_name])
        for head in HEADS:
            entropy, choices = record[f"entropy_{head}"], self._choices[head]
            if entropy is not None and choices > 1:
                yield Change("esper_head_entropy_ratio", entropy / math.log(choices), (head,))
            yield Change("esper_head_entropy_floor_ratio", ENTROPY_FLOORS[head], (head,))

    def _round(self, record: Record) -> Iterator[Change]:
        accuracy = record["val_accuracy_ratio"]
        self._rounds.append(accuracy)
        yield Change("esper_rounds_total", 1)
        yield Change("esper_rounds_done", record["round"] + 1)
        yield Change("esper_round_accuracy_ratio", accuracy)
        yield Change("esper_round_accuracy_rolling_ratio", fmean(self._rounds))
        yield Change("esper_round_committed_accuracy_ratio", record["committed_accuracy_ratio"])
        yield Change("esper_round_growth_ratio", record["growth_ratio"])
        yield Change("esper_return_mean", record["return_mean"])
        yield Change("esper_return_std", record["return_std"])
        if self._of_round:
            accuracies = [one["val_accuracy_pp"] / 100.0 for one in self._of_round]
            yield Change("esper_round_accuracy_min_ratio", min(accuracies))
            yield Change("esper_round_accuracy_max_ratio", max(accuracies))
            returns = [one["total_reward"] for one in self._of_round]
            for quantile in QUANTILES:
                yield Change("esper_return", float(np.quantile(returns, quantile)), (str(quantile),))
        if self._steps:
            yield Change("esper_decision_density_ratio", self._open_steps / self._steps)
            for source, amount in sorted(self._paid.items()):
                yield Change("esper_reward_component_mean", amount / self._steps, (source,))
        self._of_round, self._steps, self._open_steps = [], 0, 0
        self._paid = Counter(dict.fromkeys(self._paid, 0.0))

    def _anomaly(self, record: Record) -> Iterator[Change]:
        name = record["type"]
        self._open[name] += 1 if record["open"] else -1
        if record["open"]:
            yield Change("esper_anomalies_total", 1, (name,))
        yield Change("esper_anomalies_open", self._open[name], (name,))

    def _profile(self, record: Record) -> Iterator[Change]:
        for phase, seconds in record["seconds"].items():
            yield Change("esper_step_duration_seconds", seconds, (phase,))
        if record["env"] < ENV_LABELS:
            for state, size in record["cuda_bytes"].items():
                yield Change("esper_env_cuda_memory_bytes", size, (str(record["env"]), state))

    def _samples_lost(self, record: Record) -> Iterator[Change]:
        yield Change("esper_telemetry_dropped_total", record["count"], ("sample", record["reason"]))

    def _malformed(self, record: Record) -> Iterator[Change]:
        yield Change("esper_telemetry_dropped_total", 1, ("evidence", "malformed"))


_OF_UPDATE = {
    "esper_ppo_optimizer_steps": "optimizer_steps",
    "esper_ppo_policy_loss_nats": "policy_loss",
    "esper_ppo_value_loss": "value_loss",
    "esper_ppo_entropy_nats": "entropy",
    "esper_ppo_kl_nats": "kl",
    "esper_ppo_clip_ratio": "clip_share",
    "esper_ppo_grad_norm": "grad_norm",
    "esper_ppo_explained_variance_ratio": "explained_variance",
    "esper_ppo_low_return_variance": "low_variance",
    "esper_ppo_epsilon_ratio": "epsilon",
    "esper_ppo_entropy_coefficient": "entropy_coefficient",
}
_TELLERS: Mapping[str, Callable[[MetricsReducer, Record], Iterator[Change]]] = {
    "episode_started": MetricsReducer._episode_started,
    "control": MetricsReducer._control,
    "seed_transition": MetricsReducer._transition,
    "gate": MetricsReducer._gate,
    "veto": MetricsReducer._veto,
    "rollback": MetricsReducer._rollback,
    "env_epoch": MetricsReducer._step,
    "outcome": MetricsReducer._outcome,
    "environment_quarantined": MetricsReducer._quarantine,
    "ppo_update": MetricsReducer._update,
    "round": MetricsReducer._round,
    "anomaly": MetricsReducer._anomaly,
    "profile": MetricsReducer._profile,
    "samples_lost": MetricsReducer._samples_lost,
    "malformed": MetricsReducer._malformed,
}
