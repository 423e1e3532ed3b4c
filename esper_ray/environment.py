"""``MorphogenesisEnv``: one episode is the life of one growing network; one step is one epoch of it.

A step goes through legality, execution, one lifecycle tick, training, measurement, the governor and
the accounts, in this order, whatever policy acts. So the reward of a step depends on its action, and
the observation already shows the action's effect.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from esper_ray.kasmina.commands import command_of, logged
from esper_ray.kasmina.lifecycle import LifecycleEvent, SeedState
from esper_ray.kasmina.organism import Organism, OrganismSnapshot
from esper_ray.leyline.actions import WAIT, Action, Blueprint, LifecycleOp, head_sizes
from esper_ray.leyline.config import RunConfig
from esper_ray.leyline.legality import Masks, legality, mask_vector_size
from esper_ray.leyline.loading import build, read_preset
from esper_ray.leyline.observation import (
    BOUND,
    HISTORY,
    NO_BLUEPRINT,
    blueprint_indices,
    observation_size,
    observe,
)
from esper_ray.leyline.policy import View
from esper_ray.leyline.records import Event, HostSignals, LedgerEntry, Measurement, Reports
from esper_ray.simic.accounting import Transition, committed_accuracy, fossil_parameters, settle
from esper_ray.simic.attribution import leave_one_out, pair_interactions
from esper_ray.simic.ledger import Ledger
from esper_ray.tolaria.assembly import HostBuilder, build_organism, configured_host, derived_seed, growth_limits
from esper_ray.tolaria.data import Dataset, epoch_batches
from esper_ray.tolaria.governor import Governor, Verdict
from esper_ray.tolaria.measurement import measure
from esper_ray.tolaria.tasks import load_task
from esper_ray.tolaria.training import EpochResult, EpochSettings, train_epoch, training_loss
from esper_ray.tolaria.vitals import Vitals

Observation = dict[str, NDArray[Any]]

PROBE_IMAGES = 512
"""Most training images that a gradient-informed start looks at."""


@dataclass(frozen=True, slots=True)
class _Good:
    """The last state that the governor trusted."""

    organism: OrganismSnapshot
    vitals: Vitals
    measured: Measurement


class MorphogenesisEnv(gymnasium.Env[Observation, NDArray[np.int64]]):
    """A growing network as a Gymnasium environment.

    Observation: ``features`` (23 + 31 per slot, Obs V3), ``blueprints`` (index per slot, -1 where
    empty) and ``masks`` (legal operations per slot and legal arguments). Action: eight indices, see
    :mod:`esper_ray.leyline.actions`. Every action of the space is accepted; an illegal one is carried
    out as WAIT and flagged in ``info["illegal"]``.

    ``terminated`` means that the governor had to restore the network; ``truncated`` that the episode
    has reached its length.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own declaration

    def __init__(
        self,
        config: RunConfig,
        device: str = "cpu",
        *,
        data: Dataset | None = None,
        host: HostBuilder | None = None,
    ) -> None:
        """
        Args:
            data: own data on ``device``; the task of the configuration is not loaded then.
            host: makes a fresh host of one's own for each episode, from the data; weights drawn from torch's
                global generator are a function of the episode's seed.

        Raises:
            TaskError: if the task or its data cannot be had.
            GrowthError: if a blueprint does not exist for the features at the slots.
        """
        self.config = config
        self.device = torch.device(device)
        self.data = load_task(config.task, self.device) if data is None else data
        self.host = configured_host(config.host) if host is None else host
        self.limits = growth_limits(config.growth, build_organism(config, self.data, self.device, 0, self.host).model)
        slots = len(self.limits.slots)
        size = (observation_size(slots),)
        self.observation_space = spaces.Dict(
            {
                "features": spaces.Box(-BOUND, BOUND, size, np.float32),
                "blueprints": spaces.Box(NO_BLUEPRINT, len(Blueprint) - 1, (slots,), np.int64),
                "masks": spaces.MultiBinary(mask_vector_size(slots)),
            }
        )
        self.action_space = spaces.MultiDiscrete(list(head_sizes(slots).values()))  # type: ignore[assignment]
        self._settings = EpochSettings(
            config.training.host_grad_clip, config.training.seed_grad_clip, config.growth.incubation.share
        )
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a fresh host. The episode is a pure function of ``seed``; without one it is drawn from the last."""
        super().reset(seed=seed)
        self.episode_seed = int(self.np_random.integers(2**32)) if seed is None else seed
        self.organism: Organism = build_organism(self.config, self.data, self.device, self.episode_seed, self.host)
        self.governor = Governor(self.config.governor, self.data.random_guess_loss)
        self.ledger = Ledger()
        self.vitals = Vitals()
        self.measured = measure(self.organism.model, self.data, self.data.validation)
        self.first_accuracy_pp = self.measured.accuracy_pp
        self.epoch = 0
        self.illegal_actions = 0
        self._last_operation, self._last_success = LifecycleOp.WAIT, True
        self._interventions: deque[int] = deque(maxlen=1)
        self._losses: deque[float] = deque([self.measured.loss], maxlen=HISTORY)
        self._accuracies: deque[float] = deque([self.measured.accuracy_pp], maxlen=HISTORY)
        self._good = self._trusted_state()
        self._since_snapshot = 0
        self._over = False
        self._observe()
        return self._observation(), self._info(WAIT, illegal=False, events=[], entries=(), result=None)

    def step(self, action: Sequence[int] | NDArray[np.int64]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One epoch.

        Raises:
            RuntimeError: before the first reset, or after the end of an episode.
            ValueError: if ``action`` is not in the action space.
        """
        if self._over:
            raise RuntimeError("the episode is over (or was never begun); call reset() first")
        asked = Action.from_indices(list(action), len(self.limits.slots))
        illegal = not self.masks.allows(asked)
        self.illegal_actions += illegal
        taken = WAIT if illegal else asked
        before, known = self.reports, self.measured

        events = self._execute(taken)
        self._last_success &= not illegal
        events += self._tick()
        result = self._train()
        verdict = self._measure_and_judge(result)
        if verdict.panic:
            events.append(self._roll_back(verdict))
        self.epoch += 1
        terminated = verdict.panic
        truncated = not terminated and self.epoch >= self.config.episode_length
        self._last_operation = asked.operation
        self._losses.append(self.measured.loss)
        self._accuracies.append(self.measured.accuracy_pp)
        self._observe()
        entries = self._settle(taken, before, known, truncated=truncated, terminated=terminated)
        reward = self.ledger.book(entries)
        self._over = terminated or truncated
        return self._observation(), reward, terminated, truncated, self._info(taken, illegal, events, entries, result)

    def action_masks(self) -> NDArray[np.bool_]:
        """The masks of the eight heads one after another, for algorithms with independent heads."""
        return self.masks.flat()

    @property
    def view(self) -> View:
        """The present state as policies see it."""
        observation = self._observation()
        return View(observation["features"], observation["blueprints"], self.masks, self.reports, self.signals)

    def test_measurement(self) -> Measurement:
        """Loss, accuracy and coalitions on the test split: for reports only, never for decisions."""
        return measure(self.organism.model, self.data, self.data.test)

    @property
    def total_parameters(self) -> int:
        """Parameters of host and seeds."""
        return self.organism.model.host_parameters + sum(map(self.organism.model.seed_parameters, self.limits.slots))

    def _execute(self, action: Action) -> list[Event]:
        self._last_success = True
        if action.operation is LifecycleOp.WAIT:
            return []
        slot = self.limits.slots[action.slot]
        before = self.organism.model.states[slot]
        model = self.organism.model
        command = command_of(action, model.growth.next_seed_id(slot))
        loss_of = self._probe_loss if action.operation is LifecycleOp.GERMINATE else None
        outcome = model.execute(slot, command, self.vitals.of(slot), loss_of)
        self._last_success = outcome.success
        if outcome.success:
            self._interventions.append(self.epoch)
        return self._log(slot, before, outcome.events, "policy")

    def _tick(self) -> list[Event]:
        before = dict(self.organism.model.states)
        happened = self.organism.model.tick(self.vitals.by_slot())
        return [event for slot, events in happened.items() for event in self._log(slot, before[slot], events, "clock")]

    def _batches(self) -> Tensor:
        training = self.config.training
        return epoch_batches(
            derived_seed(self.episode_seed, 1),
            self.epoch,
            len(self.data.train),
            training.batch_size,
            training.steps_per_epoch,
        )

    def _probe_loss(self) -> Tensor:
        """Loss on the images that are trained on next, for seeds that start gradient-informed."""
        return training_loss(self.organism.model, self.data, self._batches().reshape(-1)[:PROBE_IMAGES])

    def _train(self) -> EpochResult:
        result = train_epoch(self.organism, self.data, self._batches(), self._settings)
        self.organism.model.epoch_elapsed()
        return result

    def _measure_and_judge(self, result: EpochResult) -> Verdict:
        known = self.measured.accuracy_pp
        self.measured = measure(self.organism.model, self.data, self.data.validation)
        contributions = leave_one_out(self.measured)
        interactions = dict.fromkeys(self.measured.players, 0.0)
        for pair, value in pair_interactions(self.measured).items():
            for slot in pair:
                interactions[slot] += value
        self.vitals = self.vitals.updated(
            self.organism.model.states, known, self.measured, result.gradients, contributions, interactions
        )
        verdict = self.governor.judge(result.loss, self.measured.loss)
        self._since_snapshot += 1
        if verdict.healthy and self._since_snapshot >= self.config.governor.snapshot_every:
            self._good, self._since_snapshot = self._trusted_state(), 0
        return verdict

    def _trusted_state(self) -> _Good:
        return _Good(self.organism.snapshot(), self.vitals, self.measured)

    def _roll_back(self, verdict: Verdict) -> Event:
        self._last_success = False  # whatever the action did is undone
        self.organism.restore(self._good.organism)
        self.vitals, self.measured = self._good.vitals, self._good.measured
        data = {"reason": verdict.reason, "value": verdict.value, "threshold": verdict.threshold}
        return Event("rollback", self.epoch, data)

    def _settle(
        self, action: Action, before: Reports, known: Measurement, *, truncated: bool, terminated: bool
    ) -> tuple[LedgerEntry, ...]:
        step = self.epoch - 1
        transition = Transition(
            step=step,
            operation=action.operation,
            slot=action.slot,
            success=self._last_success,
            before=before,
            after=self.reports,
            known=known,
            measured=self.measured,
            first_accuracy_pp=self.first_accuracy_pp,
            host_parameters=self.organism.model.host_parameters,
            truncated=truncated,
            terminated=terminated,
        )
        entries = settle(transition, self.config.reward, self.config.gamma)
        if not terminated:
            return entries
        recent = [s for s in self._interventions if step - s <= self.config.governor.watch_window]
        cause = recent[0] if recent else step
        penalty = LedgerEntry(
            "governor", -self.config.governor.penalty, step, cause, None, "the network had to be restored"
        )
        return (*entries, penalty)

    def _observe(self) -> None:
        self.reports: Reports = tuple(
            self.organism.model.report(slot, self.vitals.of(slot)) for slot in self.limits.slots
        )
        self.masks: Masks = legality(self.reports, self.limits)
        self.signals = HostSignals(
            epoch=self.epoch,
            max_epochs=self.config.episode_length,
            val_loss=self.measured.loss,
            val_accuracy_pp=self.measured.accuracy_pp,
            loss_history=tuple(self._losses),
            accuracy_history_pp=tuple(self._accuracies),
            last_op=int(self._last_operation),
            last_success=self._last_success,
        )

    def _observation(self) -> Observation:
        return {
            "features": observe(self.signals, self.reports),
            "blueprints": blueprint_indices(self.reports),
            "masks": self.masks.vector(),
        }

    def _info(
        self,
        action: Action,
        illegal: bool,
        events: list[Event],
        entries: tuple[LedgerEntry, ...],
        result: EpochResult | None,
    ) -> dict[str, Any]:
        return {
            "episode_seed": self.episode_seed,
            "epoch": self.epoch,
            "operation": action.operation.name,
            "slot": None if action.operation is LifecycleOp.WAIT else self.limits.slots[action.slot],
            "success": self._last_success,
            "illegal": illegal,
            "train_loss": None if result is None else result.loss,
            "val_loss": self.measured.loss,
            "val_accuracy_pp": self.measured.accuracy_pp,
            "committed_accuracy_pp": committed_accuracy(self.reports, self.measured),
            "total_parameters": self.total_parameters,
            "fossil_parameters": fossil_parameters(self.reports),
            "growth_ratio": self.total_parameters / self.organism.model.host_parameters,
            "entries": entries,
            "events": tuple(events),
            "reports": self.reports,
        }

    def _log(
        self, slot: str, before: SeedState | None, happened: tuple[LifecycleEvent, ...], initiator: str
    ) -> list[Event]:
        state = self.organism.model.states[slot] or before
        return logged(slot, state, happened, self.epoch, initiator)


def make_environment(
    preset: str = "digits", overrides: Mapping[str, Any] | None = None, device: str = "cpu"
) -> MorphogenesisEnv:
    """The environment of a preset: what ``gymnasium.make("esper_ray/Morphogenesis-v0")`` calls.

    Args:
        overrides: dotted configuration keys and their values, for example ``{"episode_length": 20}``.

    Raises:
        ConfigError: if the preset does not exist or an override is not valid.
    """
    return MorphogenesisEnv(build(read_preset(preset), overrides), device)
