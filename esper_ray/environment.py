"""Gymnasium environment of a growing network.

An episode trains one network; a step is one epoch.

A step consists of legality, execution, one lifecycle tick, training, measurement, governor and rewards, in this
order, for every policy. So the reward of a step depends on its action, and the next observation shows its effect.
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
from esper_ray.runtime.host import EpisodeRuntime
from esper_ray.runtime.snapshot import EpisodeSnapshot, pack, unpack
from esper_ray.simic.ledger import Ledger
from esper_ray.simic.live.engine import needs_control
from esper_ray.tolaria.assembly import AnyData, HostBuilder, build_organism, configured_host, growth_limits
from esper_ray.tolaria.device_memory import memory_for
from esper_ray.tolaria.flops import FlopMeter
from esper_ray.tolaria.tasks import load_task

Observation = dict[str, NDArray[Any]]


class MorphogenesisEnv(gymnasium.Env[Observation, NDArray[np.int64]]):
    """Gymnasium environment of a growing network.

    Observation: ``features`` (23 + 31 per slot, Obs V3), ``blueprints`` (index per slot, -1 where
    empty) and ``masks`` (legal operations per slot and legal arguments). Action: eight indices, see
    :mod:`esper_ray.leyline.actions`. Every action of the space is accepted; an illegal one is executed
    as WAIT and flagged in ``info["illegal"]``.

    ``terminated`` means that the governor restored the network; ``truncated`` that the episode
    has reached its length.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own declaration
    runtime: EpisodeRuntime
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
            data: data on ``device``, instead of the task of the configuration.
            host: builds a fresh host from the data for each episode, instead of the configured one; weights drawn from
                torch's global generator are a function of the episode's seed.
            flops: counts the operations of training, if given; not those of the control.

        Raises:
            TaskError: if the task or its data is not available.
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
        """Start an episode with a fresh host, as a pure function of its seed.

        In the reward mode ``settlement`` the same host is first trained once without growth, for comparison.

        Args:
            seed: seed of the episode; drawn from the environment's random stream if left out.
        """
        super().reset(seed=seed)
        episode_seed = int(self.np_random.integers(2**32)) if seed is None else seed
        control = self._controls.curve(episode_seed) if needs_control(self.config.reward) else ()
        self.runtime = EpisodeRuntime(self.config, self.data, self.device, self.host, episode_seed, self._flops)
        self.progress = EpisodeProgress(self.runtime, self.limits, control)
        return self._initial_observation()

    def step(self, action: Sequence[int] | NDArray[np.int64]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Execute ``action`` and train one epoch.

        Raises:
            RuntimeError: before the first reset, or after the end of an episode.
            ValueError: if ``action`` is not in the action space.
            RewardError: if a measurement is not finite; no reward is booked then.
            DeviceMemoryError: if the device has no memory for the host alone.
        """
        if not hasattr(self, "progress") or self.progress.over:
            raise RuntimeError("the episode has ended or was not started; call reset() first")
        requested = Action.from_indices(list(action), len(self.limits.slots))
        legal = self.masks.allows(requested)
        self.progress.illegal_actions += not legal
        executed, before, measured_before = requested if legal else WAIT, self.reports, self.measured
        epoch = self.runtime.advance(executed)
        watch = Stopwatch()
        self.outcome, self.view = self.progress.settle(requested, executed, epoch, before, measured_before)
        watch.lap("settle")
        self.seconds = {**epoch.seconds, **watch.seconds}
        outcome = self.outcome
        return self._observation(), outcome.reward, outcome.terminated, outcome.truncated, step_info(outcome)

    def action_masks(self) -> NDArray[np.bool_]:
        """The masks of the eight heads in one vector, for algorithms with independent heads."""
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
        """The ledger of the episode's rewards."""
        return self.progress.rewards.ledger

    @property
    def illegal_actions(self) -> int:
        """Number of illegal actions in this episode."""
        return self.progress.illegal_actions

    @property
    def episode_seed(self) -> int:
        """Seed of the present episode."""
        return self.runtime.seed

    @property
    def epoch(self) -> int:
        """Number of steps in this episode."""
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
        """The present state of the episode as a safetensors blob, for :meth:`load_state`.

        Raises:
            RuntimeError: before the first reset.
        """
        if not hasattr(self, "runtime"):
            raise RuntimeError("no episode was started; call reset() first")
        generator = dict(self.np_random.bit_generator.state)
        play, digest = self.progress.saved(), self.config.environment_digest()
        return pack(EpisodeSnapshot(play, *self.runtime.saved(), generator, digest, self.data.fingerprint))

    def load_state(self, blob: bytes) -> tuple[Observation, dict[str, Any]]:
        """Resume an episode from a state of :meth:`save_state`; returns observation and info, as ``reset``.

        Raises:
            EpisodeStateError: if ``blob`` is not a saved episode, or belongs to another configuration, other data or
                another host. The environment is unchanged then.
        """
        state = unpack(blob, self.config.environment_digest(), self.data.fingerprint, self.device)
        runtime = EpisodeRuntime(self.config, self.data, self.device, self.host, state.life.seed, self._flops)
        runtime.resume(state)
        self.runtime = runtime
        self.np_random.bit_generator.state = dict(state.generator)
        self.progress = EpisodeProgress(runtime, self.limits, state.play.rewards.control_pp)
        self.progress.resume(state.play)
        return self._initial_observation()

    def _initial_observation(self) -> tuple[Observation, dict[str, Any]]:
        """Observation and info of the present state, as ``reset`` returns them."""
        self.outcome, self.view = self.progress.start()
        return self._observation(), step_info(self.outcome)

    def _observation(self) -> Observation:
        return {"features": self.view.features, "blueprints": self.view.blueprints, "masks": self.masks.vector()}


def make_environment(
    preset: str = "digits", overrides: Mapping[str, Any] | None = None, device: str = "cpu"
) -> MorphogenesisEnv:
    """The environment of a preset; ``gymnasium.make("esper_ray/Morphogenesis-v0")`` calls it.

    Args:
        overrides: dotted configuration keys and their values, for example ``{"episode_length": 20}``.

    Raises:
        ConfigError: if the preset does not exist or an override is not valid.
    """
    return MorphogenesisEnv(build(read_preset(preset), overrides), device)
