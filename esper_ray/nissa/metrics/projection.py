"""Projection of the state of a run to the changes of its metrics.

There is no clock, no output and no memory in here. What a metric needs of earlier records is in the state before the
record or after it. The same records give the same numbers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from esper_ray.leyline.actions import HEADS
from esper_ray.leyline.records import Record
from esper_ray.leyline.stages import Stage
from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.catalogue.metrics import ENTROPY_FLOORS
from esper_ray.nissa.state.episode import EpisodeState
from esper_ray.nissa.state.fold import blueprint_name, seed_end
from esper_ray.nissa.state.measures import gaming_pattern, normalized_entropy, occupied_stages
from esper_ray.nissa.state.run_state import RunState
from esper_ray.nissa.state.totals import update_result

QUANTILES = (0.1, 0.5, 0.9)
ENV_LABELS = 64
"""Environments from this number on have no metrics of their own; the metrics of a run count them."""
_UPDATE_METRICS = {
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


@dataclass(frozen=True, slots=True)
class Change:
    """Change of one metric. A counter grows by ``value``, a gauge becomes it, a histogram observes it."""

    metric: str
    value: float
    labels: tuple[str, ...] = ()
    """Values of the metric's own labels, in their order."""


class MetricsProjection:
    """Changes of metrics, from a record and the states before and after it."""

    def __init__(self, slots: Sequence[str], choices: Mapping[str, int]) -> None:
        """
        Args:
            slots: of every environment.
            choices: greatest number of legal choices, by head.
        """
        self._slots, self._choices = tuple(slots), dict(choices)

    def changes(self, before: RunState, record: Record, after: RunState) -> Iterator[Change]:
        """Changes that ``record`` causes, where ``after`` is ``before.apply(record)``. Null numbers cause none."""
        kind = record["kind"]
        yield Change("esper_telemetry_events_total", 1, (KINDS[kind].delivery,))
        if record.get("nonfinite"):
            yield Change("esper_nonfinite_total", len(record["nonfinite"]), (kind,))
        projection = _PROJECTIONS.get(kind)
        if projection is not None:
            yield from projection(self, before, record, after)

    def preview(self, before: RunState, record: Record, after: RunState) -> Iterator[Change]:
        """Gauges of an ``env_epoch`` of an episode in play, where ``after`` is ``before.preview(record)``."""
        if not before.is_stale(record):
            yield from self._episode(after.previews[record["env"]])

    def _episode_started(self, before: RunState, record: Record, after: RunState) -> Iterator[Change]:
        yield from self._host(after.episodes[record["env"]])
        yield from self._slot_counts(after)

    def _control(self, before: RunState, record: Record, after: RunState) -> Iterator[Change]:
        yield from _gauge("esper_round_accuracy_control_ratio", after.control_accuracy_ratio)

    def _transition(self, before: RunState, record: Record, after: RunState) -> Iterator[Change]:
        yield Change("esper_seed_transitions_total", 1, (record["from"], record["to"]))
        end, blueprint = seed_end(record), blueprint_name(record)
        if end is not None:
            yield Change("esper_seed_outcomes_total", 1, (blueprint, end, record["initiator"]))
            slot = before.episode_of(record).seed_slot(record)
            if slot is not None and slot.germinated_step is not None:
                yield Change("esper_seed_lifespan_steps", record["step"] - slot.germinated_step, (end,))
            contribution = after.blueprints[blueprint].contribution_pp
            if end == "fossilized" and slot is not None and slot.measured_contribution_pp is not None:
                yield from _gauge("esper_blueprint_contribution_ratio", _ratio(contribution), (blueprint,))
        yield from self._slot_counts(after)

    def _gate(self, before: RunState, record: Record, after: RunState) -> Iterator[Change]:
        result = "pass" if record["passed"] else "fail"
        yield Change("esper_gate_evaluations_total", 1, (record["gate"], result))
        for check in record["checks"]:
            if not check["passed"]:
                yield Change("esper_gate_check_failures_total", 1, (record["gate"], check["name"]))

    def _veto(self, before: RunState, record: Record, after: RunState) -> Iterator[Change]:
        yield Change("esper_vetoes_total", 1, (record["reason"],))

    def _rollback(self, before: RunState, record: Record, after: RunState) -> Iterator[Change]:
        yield Change("esper_rollbacks_total", 1, (record["reason"],))

    def _step(self, before: RunState, record: Record, after: RunState) -> Iterator[Change]:
        for entry in record["entries"]:
            if (pattern := gaming_pattern(entry)) is not None:
                yield Change("esper_reward_gaming_total", 1, (pattern,))
        yield Change("esper_env_steps_total", 1)
        result = "ok" if record["success"] else "refused"
        yield Change("esper_actions_total", 1, (record["operation"], result))
        yield from self._episode(after.episodes[record["env"]])

    def _episode(self, episode: EpisodeState) -> Iterator[Change]:
        """Gauges of one environment and its slots."""
        yield from self._host(episode)
        if episode.env < ENV_LABELS:
            yield from self._slot_gauges(episode)

    def _host(self, episode: EpisodeState) -> Iterator[Change]:
        if episode.env >= ENV_LABELS:
            return
        env = (str(episode.env),)
        yield from _gauge("esper_env_accuracy_ratio", _ratio(episode.val_accuracy_pp), env)
        yield from _gauge("esper_env_best_accuracy_ratio", _ratio(episode.best_accuracy_pp), env)
        yield Change("esper_env_steps_since_best", episode.steps_since_best, env)
        yield from _gauge("esper_env_growth_ratio", episode.growth_ratio, env)
        yield from _gauge("esper_env_val_loss_nats", episode.val_loss, env)

    def _slot_gauges(self, episode: EpisodeState) -> Iterator[Change]:
        for name in self._slots:
            slot, labels = episode.slots.get(name), (str(episode.env), name)
            yield Change("esper_slot_stage_code", 0 if slot is None else int(slot.stage), labels)
            yield Change("esper_slot_alpha_ratio", 0.0 if slot is None else slot.alpha, labels)
            contribution = None if slot is None else slot.contribution_pp
            yield Change("esper_slot_contribution_ratio", (contribution or 0.0) / 100.0, labels)

    def _slot_counts(self, state: RunState) -> Iterator[Change]:
        """Slots of all environments by stage; empty slots are dormant."""
        stages = occupied_stages(state.episodes.values())
        stages[Stage.DORMANT] = len(state.episodes) * len(self._slots) - stages.total()
        for stage in list(Stage)[1:]:
            yield Change("esper_slots", stages[stage], (stage.name,))

    def _outcome(self, before: RunState, record: Record, after: RunState) -> Iterator[Change]:
        yield Change("esper_episodes_total", 1, ("rolled_back" if record["rollback"] else "finished",))
        yield from _gauge("esper_reward_accuracy_correlation_ratio", after.reward_accuracy_correlation)
        yield from self._host(after.episodes[record["env"]])

    def _quarantine(self, before: RunState, record: Record, after: RunState) -> Iterator[Change]:
        yield Change("esper_environments_quarantined", len(after.quarantined))

    def _update(self, before: RunState, record: Record, after: RunState) -> Iterator[Change]:
        yield Change("esper_ppo_updates_total", 1, (update_result(record),))
        if record["skipped_minibatches"] > 0:
            yield Change("esper_ppo_skipped_minibatches_total", record["skipped_minibatches"])
        for metric, name in _UPDATE_METRICS.items():
            yield from _gauge(metric, record[name])
        for head in HEADS:
            yield from _gauge("esper_head_entropy_ratio", normalized_entropy(record, head, self._choices), (head,))
            yield Change("esper_head_entropy_floor_ratio", ENTROPY_FLOORS[head], (head,))

    def _round(self, before: RunState, record: Record, after: RunState) -> Iterator[Change]:
        yield Change("esper_rounds_total", 1)
        yield Change("esper_rounds_done", record["round"] + 1)
        yield from _gauge("esper_round_accuracy_ratio", record["val_accuracy_ratio"])
        yield from _gauge("esper_round_accuracy_rolling_ratio", after.rolling_accuracy_ratio)
        yield from _gauge("esper_round_committed_accuracy_ratio", record["committed_accuracy_ratio"])
        yield from _gauge("esper_round_growth_ratio", record["growth_ratio"])
        yield from _gauge("esper_return_mean", record["return_mean"])
        yield from _gauge("esper_return_std", record["return_std"])
        tally = before.tally
        accuracies = [pp / 100.0 for outcome in tally.outcomes if (pp := outcome.val_accuracy_pp) is not None]
        if accuracies:
            yield Change("esper_round_accuracy_min_ratio", min(accuracies))
            yield Change("esper_round_accuracy_max_ratio", max(accuracies))
        returns = [outcome.total_reward for outcome in tally.outcomes if outcome.total_reward is not None]
        for quantile in QUANTILES if returns else ():
            yield Change("esper_return", float(np.quantile(returns, quantile)), (str(quantile),))
        if tally.steps:
            yield Change("esper_decision_density_ratio", tally.steps_with_choice / tally.steps)
            for source in sorted(before.totals.reward_by_source):
                amount = tally.reward_by_source.get(source, 0.0)
                yield Change("esper_reward_component_mean", amount / tally.steps, (source,))

    def _anomaly(self, before: RunState, record: Record, after: RunState) -> Iterator[Change]:
        anomaly_type = record["type"]
        if record["open"]:
            yield Change("esper_anomalies_total", 1, (anomaly_type,))
        yield Change("esper_anomalies_open", after.open_anomalies(anomaly_type), (anomaly_type,))

    def _profile(self, before: RunState, record: Record, after: RunState) -> Iterator[Change]:
        for phase, seconds in record["seconds"].items():
            yield from _gauge("esper_step_duration_seconds", seconds, (phase,))
        if record["env"] < ENV_LABELS:
            for kind, size in record["cuda_bytes"].items():
                yield from _gauge("esper_env_cuda_memory_bytes", size, (str(record["env"]), kind))

    def _samples_lost(self, before: RunState, record: Record, after: RunState) -> Iterator[Change]:
        yield Change("esper_telemetry_dropped_total", record["count"], ("sample", record["reason"]))

    def _malformed(self, before: RunState, record: Record, after: RunState) -> Iterator[Change]:
        yield Change("esper_telemetry_dropped_total", 1, ("evidence", "malformed"))


def _ratio(percentage_points: float | None) -> float | None:
    return None if percentage_points is None else percentage_points / 100.0


def _gauge(metric: str, value: float | None, labels: tuple[str, ...] = ()) -> Iterator[Change]:
    """A change to ``value``, or none if it was not measured or not finite."""
    if value is not None:
        yield Change(metric, value, labels)


_PROJECTIONS: Mapping[str, Callable[[MetricsProjection, RunState, Record, RunState], Iterator[Change]]] = {
    "episode_started": MetricsProjection._episode_started,
    "control": MetricsProjection._control,
    "seed_transition": MetricsProjection._transition,
    "gate": MetricsProjection._gate,
    "veto": MetricsProjection._veto,
    "rollback": MetricsProjection._rollback,
    "env_epoch": MetricsProjection._step,
    "outcome": MetricsProjection._outcome,
    "environment_quarantined": MetricsProjection._quarantine,
    "ppo_update": MetricsProjection._update,
    "round": MetricsProjection._round,
    "anomaly": MetricsProjection._anomaly,
    "profile": MetricsProjection._profile,
    "samples_lost": MetricsProjection._samples_lost,
    "malformed": MetricsProjection._malformed,
}
