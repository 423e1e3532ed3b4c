"""``MorphogenesisEnv``: an episode trains one growing network; a step is one epoch of it.

A step goes through legality, execution, one lifecycle tick, training, measurement, the governor and the
rewards, in this order, whatever policy acts. So the reward of a step depends on its action, and the
observation already shows the action's effect.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from esper_ray.kasmina.organism import Organism
from esper_ray.leyline.actions import WAIT, Action, Blueprint, head_sizes
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.legality import Masks, mask_vector_size
from esper_ray.leyline.observation import BOUND, NO_BLUEPRINT, observation_size
from esper_ray.leyline.policy import View
from esper_ray.leyline.records import Measurement, Reports
from esper_ray.leyline.step_outcome import StepOutcome, Stopwatch, step_info
from esper_ray.runtime.control import NoGrowthBaseline
from esper_ray.runtime.episode import EpisodeProgress
from esper_ray.runtime.host import HostRuntime
from esper_ray.runtime.snapshot import EpisodeSnapshot, pack, unpack
from esper_ray.simic.ledger import Ledger
from esper_ray.simic.live.engine import needs_control
from esper_ray.tolaria.assembly import AnyData, HostBuilder, build_organism, configured_host, growth_limits
from esper_ray.tolaria.device_memory import memory_for
from esper_ray.tolaria.flops import FlopMeter
from esper_ray.tolaria.tasks import load_task

Observation = dict[str, NDArray[Any]]


class MorphogenesisEnv(gymnasium.Env[Observation, NDArray[np.int64]]):
    """A growing network as a Gymnasium environment.

    Observation: ``features`` (23 + 31 per slot, Obs V3), ``blueprints`` (index per slot, -1 where
    empty) and ``masks`` (legal operations per slot and legal arguments). Action: eight indices, see
    :mod:`esper_ray.leyline.actions`. Every action of the space is accepted; an illegal one is executed
    as WAIT and flagged in ``info["illegal"]``.

    ``terminated`` means that the governor had to restore the network; ``truncated`` that the episode
    has reached its length.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own declaration
    runtime: HostRuntime
    """The growing network of the episode."""
    progress: EpisodeProgress
    """Signals, interventions and rewards of the episode."""
    view: View
    """The present state as policies see it."""
    outcome: StepOutcome
    """Result of the last step; ``info`` is derived from it."""

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
            flops: counts the operations of training, if given; not those of the control.

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
        self.observation_space = spaces.Dict(
            {
                "features": spaces.Box(-BOUND, BOUND, (observation_size(slots),), np.float32),
                "blueprints": spaces.Box(NO_BLUEPRINT, len(Blueprint) - 1, (slots,), np.int64),
                "masks": spaces.MultiBinary(mask_vector_size(slots)),
            }
        )
        self.action_space = spaces.MultiDiscrete(list(head_sizes(slots).values()))  # type: ignore[assignment]
        self._controls = NoGrowthBaseline(config, self.data, self.device, self.host)
        self._flops = flops
        self.seconds: Mapping[str, float] = {}
        """Wall time of the last step by phase, for telemetry only."""

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a fresh host. The episode is a pure function of ``seed``; without one it is drawn from the last.

        In the reward mode ``settlement`` the same host is first trained once without growth, for comparison.
        """
        super().reset(seed=seed)
        chosen = int(self.np_random.integers(2**32)) if seed is None else seed
        control = self._controls.curve(chosen) if needs_control(self.config.reward) else ()
        self.runtime = HostRuntime(self.config, self.data, self.device, self.host, chosen, self._flops)
        self.progress = EpisodeProgress(self.runtime, self.limits, control)
        return self._begun()

    def step(self, action: Sequence[int] | NDArray[np.int64]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One epoch.

        Raises:
            RuntimeError: before the first reset, or after the end of an episode.
            ValueError: if ``action`` is not in the action space.
            RewardError: if the step cannot be paid, because a measurement is not finite; nothing was paid then.
            DeviceMemoryError: if the device has no memory for the host alone.
        """
        if not hasattr(self, "progress") or self.progress.over:
            raise RuntimeError("the episode is over (or was never begun); call reset() first")
        requested = Action.from_indices(list(action), len(self.limits.slots))
        legal = self.masks.allows(requested)
        self.progress.illegal_actions += not legal
        executed, before, known = requested if legal else WAIT, self.reports, self.measured
        epoch = self.runtime.advance(executed)
        watch = Stopwatch()
        self.outcome, self.view = self.progress.settle(requested, executed, epoch, before, known)
        watch.lap("settle")
        self.seconds = {**epoch.seconds, **watch.seconds}
        outcome = self.outcome
        return self._observation(), outcome.reward, outcome.terminated, outcome.truncated, step_info(outcome)

    def action_masks(self) -> NDArray[np.bool_]:
        """The masks of the eight heads one after another, for algorithms with independent heads."""
        return self.masks.flat()

    @property
    def reports(self) -> Reports:
        """The slots as policies see them."""
        return self.view.reports

    @property
    def masks(self) -> Masks:
        """The legal actions."""
        return self.view.masks

    @property
    def ledger(self) -> Ledger:
        """What was paid in this episode, and why."""
        return self.progress.rewards.ledger

    @property
    def illegal_actions(self) -> int:
        """Illegal actions in this episode."""
        return self.progress.illegal_actions

    @property
    def episode_seed(self) -> int:
        """What the present episode is a function of, besides its actions."""
        return self.runtime.seed

    @property
    def epoch(self) -> int:
        """Steps played in this episode."""
        return self.runtime.epoch

    @property
    def organism(self) -> Organism:
        """The growing network and its optimiser."""
        return self.runtime.organism

    @property
    def measured(self) -> Measurement:
        """The last pass over the validation split."""
        return self.runtime.measured

    def control(self, seed: int) -> tuple[float, ...]:
        """(episode length + 1,) validation accuracies, in percentage points, of an episode's host without growth.

        Raises:
            DeviceMemoryError: if the device has no memory for the host.
        """
        return self._controls.curve(seed)

    def test_measurement(self) -> Measurement:
        """Loss, accuracy and coalitions on the test split: for reports only, never for decisions."""
        return self.runtime.test_measurement()

    def save_state(self) -> bytes:
        """The present state of the episode, for :meth:`load_state` of an equal environment anywhere.

        A safetensors blob; nothing in it needs unpickling.

        Raises:
            RuntimeError: before the first reset.
        """
        if not hasattr(self, "runtime"):
            raise RuntimeError("no episode was begun; call reset() first")
        generator = dict(self.np_random.bit_generator.state)
        play, digest = self.progress.saved(), self.config.environment_digest()
        return pack(EpisodeSnapshot(play, *self.runtime.saved(), generator, digest, self.data.fingerprint))

    def load_state(self, blob: bytes) -> tuple[Observation, dict[str, Any]]:
        """Resume an episode from where :meth:`save_state` left it. Returns what ``reset`` would.

        Raises:
            EpisodeStateError: if ``blob`` is no saved episode, or belongs to another configuration, other data or
                another host. The environment is as it was then.
        """
        state = unpack(blob, self.config.environment_digest(), self.data.fingerprint, self.device)
        runtime = HostRuntime(self.config, self.data, self.device, self.host, state.life.seed, self._flops)
        runtime.resume(state)
        self.runtime = runtime
        self.np_random.bit_generator.state = dict(state.generator)
        self.progress = EpisodeProgress(runtime, self.limits, state.play.books.control_pp)
        self.progress.resume(state.play)
        return self._begun()

    def _begun(self) -> tuple[Observation, dict[str, Any]]:
        """What ``reset`` returns, in the present state."""
        self.outcome, self.view = self.progress.start()
        return self._observation(), step_info(self.outcome)

    def _observation(self) -> Observation:
        return {"features": self.view.features, "blueprints": self.view.blueprints, "masks": self.masks.vector()}


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
