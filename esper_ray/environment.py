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
from esper_ray.leyline.config.layers import load_preset
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.context import CONTEXT_SIZE
from esper_ray.leyline.errors import UsageError, UserError, shortened
from esper_ray.leyline.legality import Masks, mask_vector_size
from esper_ray.leyline.observation import BOUND, NO_BLUEPRINT, observation_size
from esper_ray.leyline.policy import View
from esper_ray.leyline.records import Measurement, Reports
from esper_ray.leyline.step_outcome import StepOutcome, Stopwatch, step_info
from esper_ray.rendering import RENDER_MODES, Drawing
from esper_ray.runtime.control import NoGrowthBaseline
from esper_ray.runtime.episode import EpisodeProgress
from esper_ray.runtime.host import EpisodeRuntime
from esper_ray.runtime.snapshot import EpisodeSnapshot, EpisodeStateError, pack, unpack
from esper_ray.runtime.snapshot_checks import checked_generator
from esper_ray.simic.ledger import Ledger
from esper_ray.simic.live.engine import needs_control
from esper_ray.tolaria.assembly import AnyData, ConfiguredHost, HostBuilder, build_organism, growth_limits
from esper_ray.tolaria.device_memory import memory_for
from esper_ray.tolaria.flops import FlopMeter
from esper_ray.tolaria.run_checks import check_environment_device, check_training_batch
from esper_ray.tolaria.tasks import load_task

Observation = dict[str, NDArray[Any]]

_REBUILT = ("data", "host", "limits", "_controls", "runtime", "progress", "view")
"""Attributes that a pickle does not hold: they follow from the configuration and the saved episode."""


class MorphogenesisEnv(gymnasium.Env[Observation, NDArray[np.int64]]):
    """Gymnasium environment of a growing network.

    Observation: ``features`` (23 + 31 per slot, Obs V3), ``blueprints`` (index per slot, -1 where
    empty), ``context`` (numbers of each slot, empty or not) and ``masks`` (legal operations per slot
    and legal arguments). Action: eight indices, see
    :mod:`esper_ray.leyline.actions`. Every action of the space is accepted; an illegal one is executed
    as WAIT and flagged in ``info["illegal"]``.

    ``terminated`` means that the governor restored the network; ``truncated`` that the episode
    has reached its length.

    It can be pickled, in the middle of an episode too; data of the task are not part of the pickle but loaded again.
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 4}  # noqa: RUF012 - Gymnasium's own
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
        render_mode: str | None = None,
    ) -> None:
        """
        Args:
            data: data on ``device``, instead of the task of the configuration.
            host: builds a fresh host from the data for each episode, instead of the configured one; weights drawn from
                torch's global generator are a function of the episode's seed.
            flops: counts the operations of training, if given; not those of the control.
            render_mode: what :meth:`render` returns: ``"ansi"``, ``"rgb_array"``, or ``None`` for nothing.

        Raises:
            UsageError: if the render mode does not exist, or the host cannot train on a batch of the data.
            TaskError: if the task or its data is not available.
            GrowthError: if a blueprint does not exist for the features at the slots.
            DeviceMemoryError: if the device has no memory for data and host.
        """
        if render_mode not in (None, *RENDER_MODES):
            modes = ", ".join(map(repr, RENDER_MODES))
            raise UsageError(f"render_mode {render_mode!r} does not exist; the modes are {modes} and None")
        self.config = config
        self.device = torch.device(device)
        self.render_mode = render_mode
        self._own_data, self._own_host, self._flops = data, host, flops
        self.seconds: Mapping[str, float] = {}
        """Wall time of the last step by phase, for telemetry only."""
        self._lanes: dict[int, Reports] = {}
        """Slots at the end of each epoch, for drawings; empty without a render mode."""
        self._assemble()

    def _assemble(self) -> None:
        """Load the data, and derive limits and spaces from a first host."""
        config = self.config
        with memory_for(f"the data of task {config.task.name!r} and a host", self.device):
            self.data = load_task(config.task, self.device) if self._own_data is None else self._own_data
            self.host: HostBuilder = ConfiguredHost.of(config) if self._own_host is None else self._own_host
            organism = build_organism(config, self.data, self.device, 0, self.host)
            check_training_batch(config, organism, self.data)
        self.limits = growth_limits(config.growth, organism.model, config.episode_length)
        slots = len(self.limits.slots)
        self.observation_space = spaces.Dict(
            {
                "features": spaces.Box(-BOUND, BOUND, (observation_size(slots),), np.float32),
                "blueprints": spaces.Box(NO_BLUEPRINT, len(Blueprint) - 1, (slots,), np.int64),
                "context": spaces.Box(-BOUND, BOUND, (slots, CONTEXT_SIZE), np.float32),
                "masks": spaces.MultiBinary(mask_vector_size(slots)),
            }
        )
        self.action_space = spaces.MultiDiscrete(list(head_sizes(slots).values()))  # type: ignore[assignment]
        self._controls = NoGrowthBaseline(config, self.data, self.device, self.host)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode with a fresh host, as a pure function of its seed.

        In the reward mode ``settlement`` the same host is first trained once without growth, for comparison.

        Args:
            seed: seed of the episode; drawn from the environment's random stream if left out.
            options: none exist; ``None`` or an empty mapping.

        Raises:
            UsageError: if ``options`` is anything else.
        """
        if options is not None and (not isinstance(options, Mapping) or options):
            raise UsageError(f"options {shortened(options)}: reset has none; it takes None or an empty mapping")
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
        if self.render_mode is not None:
            self._lanes[outcome.epoch] = outcome.reports
        return self._observation(), outcome.reward, outcome.terminated, outcome.truncated, step_info(outcome)

    def render(self) -> str | NDArray[np.uint8] | None:  # type: ignore[override] # one frame, never a list
        """The episode so far, as text or RGB picture according to the render mode.

        Raises:
            RuntimeError: before the first reset.
        """
        if self.render_mode is None:
            return None
        if not hasattr(self, "outcome"):
            raise RuntimeError("no episode was started; call reset() first")
        drawing = Drawing(self.outcome, self.limits.slots, self.config.episode_length, self._lanes)
        return drawing.text() if self.render_mode == "ansi" else drawing.picture()

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name not in _REBUILT}
        return state | {"episode": self.save_state() if hasattr(self, "runtime") else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        episode, outcome, lanes = state.pop("episode"), state.get("outcome"), state["_lanes"]
        self.__dict__.update(state)
        self._assemble()
        self.__dict__.update(state)  # the spaces again: their random streams are part of the state
        if episode is not None and outcome is not None:
            self.load_state(episode)
            self.outcome, self._lanes = outcome, lanes

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
        """The growing network and its optimizer."""
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
            EpisodeStateError: if a tensor of the host cannot be written exactly, such as a sparse one.
        """
        if not hasattr(self, "runtime"):
            raise RuntimeError("no episode was started; call reset() first")
        generator = dict(self.np_random.bit_generator.state)
        play, digest = self.progress.saved(), self.config.environment_digest()
        return pack(EpisodeSnapshot(play, *self.runtime.saved(), generator, digest, self.data.fingerprint))

    def load_state(self, blob: bytes) -> tuple[Observation, dict[str, Any]]:
        """Resume an episode from a state of :meth:`save_state`; returns observation and info, as ``reset``.

        Everything is built and checked first; then the environment gets all of it.

        Raises:
            EpisodeStateError: if ``blob`` is not a saved episode, is damaged, or belongs to another configuration,
                other data or another host. The environment is unchanged then.
            DeviceMemoryError: if the device has no memory for the host.
        """
        state = unpack(blob, self.config.environment_digest(), self.data.fingerprint, self.device)
        try:
            generator = checked_generator(state.generator)
            runtime = EpisodeRuntime(self.config, self.data, self.device, self.host, state.life.seed, self._flops)
            runtime.resume(state)
            progress = EpisodeProgress(runtime, self.limits, state.play.rewards.control_pp)
            progress.resume(state.play)
            outcome, view = progress.start()
        except UserError:
            raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise EpisodeStateError(f"the saved episode is damaged: {error!r}") from error
        self.runtime, self.progress, self.outcome, self.view = runtime, progress, outcome, view
        self.np_random.bit_generator.state = generator
        return self._observation(), step_info(self.outcome)

    def _initial_observation(self) -> tuple[Observation, dict[str, Any]]:
        """Observation and info of the present state, as ``reset`` returns them."""
        self.outcome, self.view = self.progress.start()
        self._lanes = {}
        return self._observation(), step_info(self.outcome)

    def _observation(self) -> Observation:
        view = self.view
        return {
            "features": view.features,
            "blueprints": view.blueprints,
            "context": view.context,
            "masks": view.masks.vector(),
        }


def make_environment(
    preset: str = "digits",
    overrides: Mapping[str, Any] | None = None,
    device: str = "cpu",
    render_mode: str | None = None,
) -> MorphogenesisEnv:
    """The environment of a preset; ``gymnasium.make("esper_ray/Morphogenesis-v0")`` calls it.

    Args:
        overrides: dotted configuration keys and their values, for example ``{"episode_length": 20}``.
        render_mode: ``"ansi"``, ``"rgb_array"`` or ``None``, see :meth:`MorphogenesisEnv.render`.

    Raises:
        ConfigError: if the preset does not exist or an override is not valid.
        UsageError: if an argument has another type, the device or the render mode does not exist, or the host cannot
            train on a batch of the data.
    """
    expected = (
        ("preset", preset, isinstance(preset, str), "the name of a preset"),
        (
            "overrides",
            overrides,
            overrides is None or isinstance(overrides, Mapping),
            "a mapping of dotted configuration keys to values",
        ),
        ("device", device, isinstance(device, str), "cpu or cuda:<index>"),
    )
    for name, value, is_possible, description in expected:
        if not is_possible:
            raise UsageError(f"{name} {shortened(value)}: it must be {description}")
    if unnamed := [key for key in overrides or () if not isinstance(key, str)]:
        raise UsageError(f"overrides: the key {shortened(unnamed[0])} must be a dotted configuration key")
    config = load_preset(preset, overrides)
    check_environment_device(config, device)
    return MorphogenesisEnv(config, device, render_mode=render_mode)
