"""Baseline policies without learning."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from esper_ray.leyline.actions import HEADS_OF_OP, WAIT, Action, Blueprint, GerminationStyle, LifecycleOp
from esper_ray.leyline.config.base import Duration, Integer, Section
from esper_ray.leyline.legality import Limits
from esper_ray.leyline.policy import Decision, View
from esper_ray.leyline.stages import Stage

FULL, FAST = 2, 0
"""Indices of the alpha target 1.0 and of the fastest tempo."""


class StaticPolicy:
    """A policy without growth, which always waits."""

    def begin_episode(self, seed: int) -> None:
        """No effect: the policy has no random numbers and no state."""

    def decide(self, view: View) -> Decision:
        """The action WAIT."""
        return Decision(WAIT, reason="no growth")


class RandomPolicy:
    """A policy that chooses uniformly among legal operations, then slots, then arguments."""

    def begin_episode(self, seed: int) -> None:
        """Seed the generator of the episode."""
        self._rng = np.random.default_rng(seed)

    def decide(self, view: View) -> Decision:
        """A random legal action."""
        op = LifecycleOp(self._any(view.masks.op))
        slot = 0 if op is LifecycleOp.WAIT else self._any(view.masks.slot_by_op[op])
        read = HEADS_OF_OP[op]
        arguments = {head: self._any(legal) for head, legal in view.masks.arguments.items() if head in read}
        return Decision(Action(op, slot, **arguments), reason="drawn at random")

    def _any(self, legal: Any) -> int:
        return int(self._rng.choice(np.flatnonzero(legal)))


class ScriptLine(Section):
    """One line of a script: what to do, and from which epoch on."""

    epoch: Duration
    """First epoch, counted from 0, in which it is tried; it is carried out as soon as it is legal and let through."""
    op: str
    """Name of the operation: germinate, set_alpha_target, prune, fossilize or advance."""
    slot: Integer = Field(0, ge=0, le=511)
    """Index among the slots of the run."""
    blueprint: str = "conv_light"

    @property
    def operation(self) -> LifecycleOp:
        """The operation as an enumeration member."""
        return LifecycleOp[self.op.upper()]


class SchedulePolicy:
    """A fixed script that looks at nothing but the clock and at what is legal.

    Lines are carried out in their order. One that a gate refuses is tried again, and those after it wait. Where gates
    do not open by themselves, seeds that develop are advanced in between.
    """

    def __init__(self, limits: Limits, script: Sequence[ScriptLine] | None = None) -> None:
        """
        Args:
            script: lines of the script; ``None``: germinate and fossilize a seed in every slot, one after another.

        Raises:
            ValueError: if a line names an unknown operation, slot or blueprint.
        """
        self.limits = limits
        self.script = tuple(default_script(limits) if script is None else script)
        self._style = min(limits.styles, key=lambda style: style is not GerminationStyle.LINEAR_ADD)
        for number, line in enumerate(self.script, start=1):
            self._check(number, line)
        self.begin_episode(0)

    def begin_episode(self, seed: int) -> None:
        """Restart at the first line; nothing is random."""
        self._next, self._tried = 0, False

    def decide(self, view: View) -> Decision:
        """The action of the next line if due and legal; else ADVANCE or WAIT."""
        self._next += self._tried and view.signals.last_success
        self._tried = False
        if self._next < len(self.script):
            line = self.script[self._next]
            action = self._action(line)
            if view.signals.epoch >= line.epoch and view.masks.allows(action):
                self._tried = True
                return Decision(action, reason=f"line {self._next + 1} of the script")
        if self.limits.manual_advance:
            for slot, report in enumerate(view.reports):
                action = Action(LifecycleOp.ADVANCE, slot)
                if report is not None and view.masks.allows(action):
                    return Decision(action, reason="develop further")
        return Decision(WAIT, reason="nothing is due")

    def _action(self, line: ScriptLine) -> Action:
        blueprint = self._blueprint(line) or Blueprint.CONV_LIGHT  # read by a germination alone, which is checked
        style = int(self._style)
        return Action(line.operation, line.slot, int(blueprint), style, FAST, alpha_target=FULL)

    def _blueprint(self, line: ScriptLine) -> Blueprint | None:
        """Blueprint of a line, by its own name or that of its place."""
        named = (b for b in Blueprint if line.blueprint in (b.id, self.limits.blueprint_name(b)))
        return next(named, None)

    def _check(self, number: int, line: ScriptLine) -> None:
        operations = [op.name.lower() for op in LifecycleOp if op is not LifecycleOp.WAIT]
        if line.op.lower() not in operations:
            raise ValueError(f"script line {number}: unknown operation {line.op!r}; there are {', '.join(operations)}")
        if not 0 <= line.slot < len(self.limits.slots):
            raise ValueError(f"script line {number}: slot {line.slot}; the run has 0 to {len(self.limits.slots) - 1}")
        plantable = _plantable(self.limits)
        if line.operation is LifecycleOp.GERMINATE and self._blueprint(line) not in plantable:
            allowed = [self.limits.blueprint_name(blueprint) for blueprint in plantable]
            raise ValueError(
                f"script line {number}: blueprint {line.blueprint!r} is not allowed; {', '.join(allowed)} are"
            )


def default_script(limits: Limits) -> Iterator[ScriptLine]:
    """The script that germinates and fossilizes a seed in every slot in turn."""
    first = min(_plantable(limits), default=Blueprint.CONV_LIGHT)
    for slot in range(len(limits.slots)):
        yield ScriptLine(epoch=0, op="germinate", slot=slot, blueprint=limits.blueprint_name(first))
        yield ScriptLine(epoch=0, op="fossilize", slot=slot)


def _plantable(limits: Limits) -> list[Blueprint]:
    """Blueprints that a run allows, without NOOP."""
    return [blueprint for blueprint in sorted(limits.blueprints) if blueprint is not Blueprint.NOOP]


@dataclass(frozen=True, slots=True)
class _Plan:
    """The known optimum of a task."""

    slot: int
    blueprint: Blueprint


ORACLE_PLANS = {"patterns": _Plan(0, Blueprint.CONV_LIGHT)}
"""Tasks whose optimum is known: one convolution in the first slot solves the patterns, and is cheapest there."""


class OraclePolicy:
    """Policy with the known optimum: one seed, fossilized as soon as allowed."""

    def __init__(self, limits: Limits, task: str) -> None:
        """
        Raises:
            ValueError: if the optimum of ``task`` is not known, or the run does not allow it.
        """
        if task not in ORACLE_PLANS:
            raise ValueError(f"no oracle for task {task!r}: the optimum is known for {', '.join(ORACLE_PLANS)} only")
        plan = ORACLE_PLANS[task]
        if plan.blueprint not in limits.blueprints or plan.slot >= len(limits.slots):
            raise ValueError(
                f"the optimum of {task!r} is {plan.blueprint.id} in slot {plan.slot}, which is not allowed"
            )
        self._plan, self._limits = plan, limits
        self._style = min(limits.styles, key=lambda style: style is not GerminationStyle.LINEAR_ADD)

    def begin_episode(self, seed: int) -> None:
        """No effect: the policy has no random numbers and no state."""

    def decide(self, view: View) -> Decision:
        """The next action of the plan."""
        slot = self._plan.slot
        report = view.reports[slot]
        if report is None:
            action = Action(
                LifecycleOp.GERMINATE, slot, self._plan.blueprint, int(self._style), FAST, alpha_target=FULL
            )
        elif report.stage is Stage.HOLDING and report.measured.contribution_pp is not None:
            action = Action(LifecycleOp.FOSSILIZE, slot)
        else:
            action = Action(LifecycleOp.ADVANCE, slot)
        return Decision(action if view.masks.allows(action) else WAIT, reason="the known optimum")
