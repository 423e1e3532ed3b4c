"""The fold of the records of one episode into its state.

It changes in place, for speed, and only the fold of the run sees it. Reports of slots are kept as the records
that they are; only the state at the end holds a :class:`SlotState` for each.
"""

from dataclasses import replace

from esper_ray.leyline.records import Record
from esper_ray.leyline.stages import Stage
from esper_ray.nissa.state.episode import HOST_VALUES, EpisodeState, SlotState


class SlotFold:
    """One occupied slot while its records are folded."""

    __slots__ = ("_before", "germinated_step", "measured_contribution_pp", "report", "seed", "stage")

    def __init__(self, before: SlotState) -> None:
        self._before = before
        self.seed, self.stage = before.seed, before.stage
        self.germinated_step = before.germinated_step
        self.measured_contribution_pp = before.measured_contribution_pp
        self.report: Record | None = None
        """The newest report of a step; ``None``: there is none beside ``before``."""

    def state(self) -> SlotState:
        """The state of the slot."""
        report = self.report
        if report is None:
            return self._before if self.stage is self._before.stage else replace(self._before, stage=self.stage)
        return SlotState(
            seed=self.seed,
            blueprint=report["blueprint"],
            stage=self.stage,
            germinated_step=self.germinated_step,
            alpha=report["alpha"],
            contribution_pp=report["contribution_pp"],
            contribution_error_pp=report["contribution_error_pp"],
            measured_contribution_pp=self.measured_contribution_pp,
            gradient_health=report["gradient_health"],
            parameters=report["parameters"],
            reported=True,
        )


_EMPTY = SlotState(seed=None, blueprint=None, stage=Stage.DORMANT)
_STAGES = {stage.name: stage for stage in Stage}


class EpisodeFold:
    """One episode while its records are folded."""

    __slots__ = (
        "_before",
        "_host",
        "_step",
        "attribution",
        "begun",
        "best",
        "best_step",
        "episode",
        "finished",
        "reports",
        "reward_sum",
        "rollback",
        "slots",
        "steps",
        "succeeds",
        "touched",
    )

    def __init__(self, before: EpisodeState) -> None:
        self._before = before
        self._host: Record | None = None
        """The newest record with values of the host, if there is one beside ``before``."""
        self._step: Record | None = None
        """The newest step, likewise."""
        self.episode, self.begun, self.succeeds = before.episode, before.begun, before.succeeds
        self.slots = {name: SlotFold(slot) for name, slot in before.slots.items()}
        self.best, self.best_step = before.best_accuracy_pp, before.best_step
        self.reward_sum, self.finished = before.episode_return, before.finished
        self.rollback, self.attribution = before.rollback, before.attribution
        self.reports, self.steps, self.touched = before.reports, before.steps, before.touched

    @property
    def is_complete(self) -> bool:
        """Whether no earlier record could hold more about its slots."""
        return self.begun or self.succeeds or self.steps > 0

    def step(self, record: Record) -> None:
        """Add an ``env_epoch``."""
        accuracy, reward = record["val_accuracy_pp"], record["reward"]
        if accuracy is not None and (self.best is None or accuracy > self.best):
            self.best, self.best_step = accuracy, record["step"]
        if self.reward_sum is not None:
            self.reward_sum = None if reward is None else self.reward_sum + reward
        before, self.slots = self.slots, {}
        for name, report in record["slots"].items():
            slot = before.get(name)
            if slot is None or slot.seed != report["seed"]:
                slot = SlotFold(_EMPTY)
                slot.seed = report["seed"]
            slot.report, slot.stage = report, _STAGES[report["stage"]]
            if report["contribution_pp"] is not None:
                slot.measured_contribution_pp = report["contribution_pp"]
            self.slots[name] = slot
        self._host = self._step = record
        self.reports += 1
        self.steps += 1
        self.touched = frozenset()

    def transition(self, record: Record) -> None:
        """Add a ``seed_transition``."""
        name, target = record["slot"], _STAGES[record["to"]]
        slot = self.slots.get(name)
        if target is Stage.DORMANT:
            self.slots.pop(name, None)
        elif slot is None or slot.seed != record["seed"]:
            germinated_step = record["step"] if target is Stage.GERMINATED else None
            self.slots[name] = SlotFold(SlotState(record["seed"], record["blueprint"], target, germinated_step))
        else:
            slot.stage = target
        if not self.is_complete:
            self.touched |= {name}

    def end(self, record: Record) -> None:
        """Add the ``outcome``."""
        self._host = record
        self.finished, self.reward_sum = True, record["total_reward"]
        self.reports += 1

    def state(self) -> EpisodeState:
        """The state of the episode."""
        host, step = self._host, self._step
        changes = {} if host is None else {name: host[name] for name in HOST_VALUES}
        if step is not None:
            changes |= {name: step[name] for name in ("step", "operation", "success", "reward")}
        return replace(
            self._before,
            **changes,
            best_accuracy_pp=self.best,
            best_step=self.best_step,
            episode_return=self.reward_sum,
            slots={name: slot.state() for name, slot in self.slots.items()},
            finished=self.finished,
            rollback=self.rollback,
            attribution=self.attribution,
            reports=self.reports,
            steps=self.steps,
            touched=self.touched,
        )
