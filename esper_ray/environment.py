"""``MorphogenesisEnv``: one episode is the life of one growing network; one step is one epoch of it.

A step goes through legality, execution, one lifecycle tick, training, measurement, the governor and
the accounts, in this order, whatever policy acts. So the reward of a step depends on its action, and
the observation already shows the action's effect.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from esper_ray.kasmina.organism import Organism
from esper_ray.leyline.actions import WAIT, Action, Blueprint, LifecycleOp, head_sizes
from esper_ray.leyline.commitment import committed_accuracy_pp, committed_parameters, committed_slots
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.legality import Masks, legality, mask_vector_size
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
from esper_ray.leyline.stopwatch import Stopwatch
from esper_ray.runtime.control import NoGrowthBaseline
from esper_ray.runtime.host import HostRuntime
from esper_ray.runtime.snapshot import EpisodeState, PlayProgress, pack, unpack
from esper_ray.simic.ledger import Ledger
from esper_ray.simic.live.engine import RewardEngine, needs_control
from esper_ray.simic.live.transition import Transition
from esper_ray.tolaria.assembly import AnyData, HostBuilder, build_organism, configured_host, growth_limits
from esper_ray.tolaria.device_memory import memory_for
from esper_ray.tolaria.flops import FlopMeter
from esper_ray.tolaria.tasks import load_task
from esper_ray.tolaria.training import EpochResult

Observation = dict[str, NDArray[Any]]


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
        data: AnyData | None = None,
        host: HostBuilder | None = None,
        flops: FlopMeter | None = None,
    ) -> None:
        """
        Args:
            data: own data on ``device``; the task of the configuration is not loaded then.
            host: makes a fresh host of one's own for each episode, from the data; weights drawn from torch's
                global generator are a function of the episode's seed.
            flops: counts the operations of training, if somebody wants to know; not those of the control.

        Raises:
            TaskError: if the task or its data cannot be had.
            GrowthError: if a blueprint does not exist for the features at the slots.
            DeviceMemoryError: if the device has no memory for data and host.
        """
        self.config = config
        self.device = torch.device(device)
        with memory_for(f"the data of task {config.task.name!r} and a host", self.device):
            self.data = load_task(config.task, self.device) if data is None else data
            self.host = configured_host(config.host) if host is None else host
            organism = build_organism(config, self.data, self.device, 0, self.host)
        self.limits = growth_limits(config.growth, organism.model)
        slots = len(self.limits.slots)
        size = (observation_size(slots),)
        self.observation_space = spaces.Dict(
            {
                "features": spaces.Box(-BOUND, BOUND, size, np.float32),
                "blueprints": spaces.Box(NO_BLUEPRINT, len(Blueprint) - 1, (slots,), np.int64),
                "masks": spaces.MultiBinary(mask_vector_size(slots)),
            }
        )
        self._controls = NoGrowthBaseline(config, self.data, self.device, self.host)
        self.action_space = spaces.MultiDiscrete(list(head_sizes(slots).values()))  # type: ignore[assignment]
        self._flops = flops
        self._over = True
        self.seconds: Mapping[str, float] = {}
        """Wall time of the last step by phase. For those who watch: nothing follows from it."""

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a fresh host. The episode is a pure function of ``seed``; without one it is drawn from the last.

        In the reward mode ``settlement`` the same host is first trained once without growth, for comparison.
        """
        super().reset(seed=seed)
        chosen = int(self.np_random.integers(2**32)) if seed is None else seed
        control = self._controls.of(chosen) if needs_control(self.config.reward) else ()
        self.life = HostRuntime(self.config, self.data, self.device, self.host, chosen, self._flops)
        self.books = self._new_books(control)
        self.illegal_actions = 0
        self._last_operation, self._last_success = LifecycleOp.WAIT, True
        self._last_intervention: int | None = None
        self._losses: deque[float] = deque([self.measured.loss], maxlen=HISTORY)
        self._accuracies: deque[float] = deque([self.measured.accuracy_pp], maxlen=HISTORY)
        self._over = False
        self._observe()
        return self._observation(), self._info(WAIT, illegal=False, events=[], entries=(), result=None)

    def step(self, action: Sequence[int] | NDArray[np.int64]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One epoch.

        Raises:
            RuntimeError: before the first reset, or after the end of an episode.
            ValueError: if ``action`` is not in the action space.
            RewardError: if the step cannot be paid, because a measurement is not finite; nothing was paid then.
            DeviceMemoryError: if the device has no memory for the host alone.
        """
        if self._over:
            raise RuntimeError("the episode is over (or was never begun); call reset() first")
        asked = Action.from_indices(list(action), len(self.limits.slots))
        illegal = not self.masks.allows(asked)
        self.illegal_actions += illegal
        taken = WAIT if illegal else asked
        before, known = self.reports, self.measured
        watch = Stopwatch()

        events: list[Event] = []
        result: EpochResult | None = None
        try:
            self._last_success, events = self.life.execute(taken)
            if taken.operation is not LifecycleOp.WAIT and self._last_success:
                self._last_intervention = self.epoch
            self._last_success &= not illegal
            events = [*events, *self.life.tick()]
            watch.lap("execute")
            result = self.life.train()
            watch.lap("train")
            verdict = self.life.measure_and_judge(result)
            watch.lap("measure")
        except (RuntimeError, MemoryError) as error:
            verdict = self.life.out_of_memory(error)
        if verdict.panic:
            self._last_success = False  # whatever the action did is undone
            events = [*events, self.life.roll_back(verdict)]
        self.life.epoch += 1
        terminated = verdict.panic
        truncated = not terminated and self.epoch >= self.config.episode_length
        self._last_operation = asked.operation
        self._losses.append(self.measured.loss)
        self._accuracies.append(self.measured.accuracy_pp)
        self._observe()
        entries = self._settle(taken, before, known, truncated=truncated, terminated=terminated)
        reward = sum((entry.amount for entry in entries), 0.0)
        self._over = terminated or truncated
        outcome = (
            self._observation(),
            reward,
            terminated,
            truncated,
            self._info(taken, illegal, events, entries, result),
        )
        watch.lap("settle")
        self.seconds = watch.seconds
        return outcome

    def action_masks(self) -> NDArray[np.bool_]:
        """The masks of the eight heads one after another, for algorithms with independent heads."""
        return self.masks.flat()

    @property
    def view(self) -> View:
        """The present state as policies see it."""
        return View.of(self.signals, self.reports, self.masks)

    @property
    def ledger(self) -> Ledger:
        """What was paid in this episode, and why."""
        return self.books.ledger

    @property
    def episode_seed(self) -> int:
        """What the present episode is a function of, besides its actions."""
        return self.life.seed

    @property
    def epoch(self) -> int:
        """Steps played in this episode."""
        return self.life.epoch

    @property
    def organism(self) -> Organism:
        """The growing network and its optimiser."""
        return self.life.organism

    @property
    def measured(self) -> Measurement:
        """The last pass over the validation split."""
        return self.life.measured

    def control(self, seed: int) -> tuple[float, ...]:
        """(episode length + 1,) validation accuracies, in percentage points, of an episode's host without growth.

        Raises:
            DeviceMemoryError: if the device has no memory for the host.
        """
        return self._controls.of(seed)

    def test_measurement(self) -> Measurement:
        """Loss, accuracy and coalitions on the test split: for reports only, never for decisions."""
        return self.life.test_measurement()

    def save_state(self) -> bytes:
        """The episode as it stands, in its middle too, for :meth:`load_state` of an equal environment anywhere.

        A safetensors blob; nothing in it needs unpickling.

        Raises:
            RuntimeError: before the first reset.
        """
        if not hasattr(self, "life"):
            raise RuntimeError("no episode was begun; call reset() first")
        play = PlayProgress(
            illegal_actions=self.illegal_actions,
            last_operation=int(self._last_operation),
            last_success=self._last_success,
            last_intervention=self._last_intervention,
            losses=tuple(self._losses),
            accuracies_pp=tuple(self._accuracies),
            over=self._over,
            books=self.books.saved(),
        )
        generator = dict(self.np_random.bit_generator.state)
        digest = self.config.environment_digest()
        return pack(EpisodeState(play, *self.life.saved(), generator, digest, self.data.fingerprint))

    def load_state(self, blob: bytes) -> tuple[Observation, dict[str, Any]]:
        """Go on with an episode from where :meth:`save_state` left it. Returns what ``reset`` would.

        Raises:
            EpisodeStateError: if ``blob`` is no saved episode, or belongs to another configuration, other data or
                another host. The environment is as it was then.
        """
        state = unpack(blob, self.config.environment_digest(), self.data.fingerprint, self.device)
        life = HostRuntime(self.config, self.data, self.device, self.host, state.life.seed, self._flops)
        life.resume(state)
        self.life, play = life, state.play
        self.np_random.bit_generator.state = dict(state.generator)
        self.books = self._new_books(play.books.control_pp)
        self.books.resume(play.books)
        self.illegal_actions, self._last_intervention = play.illegal_actions, play.last_intervention
        self._last_operation, self._last_success = LifecycleOp(play.last_operation), play.last_success
        self._losses = deque(play.losses, maxlen=HISTORY)
        self._accuracies = deque(play.accuracies_pp, maxlen=HISTORY)
        self._over = play.over
        self._observe()
        return self._observation(), self._info(WAIT, illegal=False, events=[], entries=(), result=None)

    def _settle(
        self, action: Action, before: Reports, known: Measurement, *, truncated: bool, terminated: bool
    ) -> tuple[LedgerEntry, ...]:
        step = self.epoch - 1
        last, window = self._last_intervention, self.config.governor.watch_window
        cause = last if last is not None and step - last <= window else step
        transition = Transition(
            step=step,
            max_steps=self.config.episode_length,
            operation=action.operation,
            slot=action.slot,
            success=self._last_success,
            before=before,
            after=self.reports,
            known=known,
            measured=self.measured,
            host_parameters=self.organism.model.host_parameters,
            truncated=truncated,
            restored_because_of=cause if terminated else None,
        )
        return self.books.settle(transition)

    def _new_books(self, control_pp: Sequence[float]) -> RewardEngine:
        config = self.config
        first = self.life.first_accuracy_pp
        return RewardEngine(config.reward, config.gamma, config.governor.penalty, first, control_pp)

    def _observe(self) -> None:
        self.reports: Reports = self.life.reports()
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
            "committed_accuracy_pp": committed_accuracy_pp(committed_slots(self.reports), self.measured),
            "total_parameters": self.life.total_parameters,
            "fossil_parameters": committed_parameters(self.reports),
            "growth_ratio": self.life.total_parameters / self.organism.model.host_parameters,
            "entries": entries,
            "events": tuple(events),
            "reports": self.reports,
        }


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
