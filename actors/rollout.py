"""Plays whole episodes: one environment, one policy, one record. No Ray in here."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from esper_ray.environment import MorphogenesisEnv
from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.policy import Decision, Episode, Policy, Trajectory, View
from esper_ray.leyline.records import SlotReport
from esper_ray.leyline.stages import Stage
from esper_ray.tolaria.assembly import derived_seed

POLICY_STREAM = 3
"""Key of the random stream that a policy draws from; the environment's own streams have others."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """One episode to be played."""

    index: int
    """Number of the episode within the run."""
    env: int
    seed: int


class Interrupted(Exception):
    """An episode was given up because somebody asked to stop."""


def episode_seed(run_seed: int, round_index: int, env: int) -> int:
    """Seed of the episode that environment ``env`` plays in a round; the same wherever it is played."""
    return derived_seed(run_seed, round_index, env)


class EpisodeRunner:
    """An environment and the policy that acts in it."""

    def __init__(self, env: MorphogenesisEnv, policy: Policy) -> None:
        self.env = env
        self.policy = policy

    def play(self, assignment: Assignment, should_stop: Callable[[], bool] = lambda: False) -> Episode:
        """One episode from reset to its end.

        Raises:
            Interrupted: if ``should_stop`` says so between two steps; nothing is kept of the episode.
            RuntimeError: if the policy chooses an illegal action.
        """
        _, info = self.env.reset(seed=assignment.seed)
        self.policy.begin_episode(derived_seed(assignment.seed, POLICY_STREAM))
        views: list[View] = []
        decisions: list[Decision] = []
        infos: list[dict[str, Any]] = [info]
        terminated = truncated = False
        while not (terminated or truncated):
            if should_stop():
                raise Interrupted
            views.append(self.env.view)
            decisions.append(self.policy.decide(views[-1]))
            action = decisions[-1].action
            if not views[-1].masks.allows(action):
                raise RuntimeError(
                    f"{type(self.policy).__name__} chose the illegal action {action} at step {len(views)}"
                )
            _, reward, terminated, truncated, info = self.env.step(action.to_indices())
            infos.append(info | {"reward": reward})
        return self._episode(assignment, _trajectory(self.env, views, decisions, terminated), decisions, infos)

    def _episode(
        self, assignment: Assignment, trajectory: Trajectory, decisions: list[Decision], infos: list[dict[str, Any]]
    ) -> Episode:
        env, last = self.env, infos[-1]
        clock = {"episode": assignment.index, "env": assignment.env}
        log = [started_record(clock, assignment.seed, infos[0])]
        for decision, info in zip(decisions, infos[1:], strict=True):
            log += step_records(clock, decision, info)
        fossils = [report.slot_id for report in env.reports if report is not None and report.stage is Stage.FOSSILIZED]
        outcome = {
            "seed": assignment.seed,
            "total_reward": env.ledger.total(),
            "reward_by_source": env.ledger.by_source(),
            "fossilised": fossils,
            "rollback": trajectory.terminated,
            **_host_state(last),
        }
        log.append({"kind": "outcome", **clock, "epoch": env.epoch, **outcome})
        operations = Counter(info["operation"] for info in infos[1:])
        return Episode(
            index=assignment.index,
            env=assignment.env,
            seed=assignment.seed,
            trajectory=trajectory,
            log=tuple(log),
            total_reward=env.ledger.total(),
            val_accuracy_pp=last["val_accuracy_pp"],
            committed_accuracy_pp=last["committed_accuracy_pp"],
            growth_ratio=last["growth_ratio"],
            operations={op.name: operations[op.name] for op in LifecycleOp},
            fossilised=len(fossils),
            refused=sum(not info["success"] for info in infos[1:]),
            rollback=trajectory.terminated,
        )


def _trajectory(env: MorphogenesisEnv, views: list[View], decisions: list[Decision], terminated: bool) -> Trajectory:
    def column(name: str) -> "np.ndarray[Any, np.dtype[np.float32]]":
        return np.asarray([getattr(decision, name) for decision in decisions], dtype=np.float32)

    return Trajectory(
        features=np.stack([view.features for view in views]),
        blueprints=np.stack([view.blueprints for view in views]),
        masks=np.stack([view.masks.vector() for view in views]),
        actions=np.asarray([decision.action.to_indices() for decision in decisions], dtype=np.int64),
        log_prob_op=column("log_prob_op"),
        log_prob_arguments=column("log_prob_arguments"),
        values=column("value"),
        q_taken=column("q_taken"),
        rewards=env.ledger.by_cause(len(views)),
        bootstrap=0.0,  # the length of an episode is part of what is played for, and all is settled at its end
        terminated=terminated,
    )


def started_record(clock: Mapping[str, int], seed: int, info: Mapping[str, Any]) -> dict[str, Any]:
    """The beginning of an episode for the event log.

    Args:
        clock: numbers of episode and environment.
        info: what ``reset`` gave.
    """
    return {"kind": "episode_started", **clock, "epoch": 0, "seed": seed, **_host_state(info)}


def step_records(clock: Mapping[str, int], decision: Decision, info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One step for the event log: what happened, and last what was decided and what came of it.

    Args:
        info: what ``step`` gave, with its reward as ``reward``.
    """
    happened = [{"kind": event.kind, **clock, "epoch": event.epoch, **event.data} for event in info["events"]]
    return [*happened, {"kind": "env_epoch", **clock, **_epoch_record(decision, info)}]


def _host_state(info: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("val_loss", "val_accuracy_pp", "committed_accuracy_pp", "total_parameters", "growth_ratio")
    return {key: info[key] for key in keys}


def _epoch_record(decision: Decision, info: Mapping[str, Any]) -> dict[str, Any]:
    """One step for the event log: what was decided and why, what came of it, and what it was paid."""
    entries = [
        {"source": e.source, "slot": e.slot, "amount": e.amount, "cause_step": e.cause_step, "why": e.explanation}
        for e in info["entries"]
    ]
    return {
        "epoch": info["epoch"],
        "operation": info["operation"],
        "slot": info["slot"],
        "success": info["success"],
        "action": decision.action.to_indices(),
        "why": decision.reason,
        "log_prob": decision.log_prob_op + decision.log_prob_arguments,
        "value": decision.value,
        "reward": info["reward"],
        "entries": entries,
        "train_loss": info["train_loss"],
        **_host_state(info),
        "slots": {report.slot_id: _slot_record(report) for report in info["reports"] if report is not None},
    }


def _slot_record(report: SlotReport) -> dict[str, Any]:
    measured = report.measured
    return {
        "seed": report.seed_id,
        "blueprint": report.blueprint.id,
        "stage": report.stage.name,
        "alpha": report.alpha,
        "contribution_pp": measured.contribution_pp,
        "contribution_error_pp": measured.contribution_error_pp,
        "gradient_health": measured.gradient_health,
        "parameters": report.parameters,
    }
