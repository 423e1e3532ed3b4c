"""RLlib configurations of Policy V2: environment, PPO with our loss, and APPO.

This module imports Ray, so Ray's settings (``esper_actors.cluster.settings``) must be set first.

    choose_ray_settings()
    from esper_actors.rllib.config import ppo_config
    algorithm = ppo_config(load_preset("digits")).build_algo()
    algorithm.train()
"""

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.tune.registry import register_env

from esper_actors.rllib.learner import FactoredPPOLearner
from esper_actors.rllib.module import PolicyV2Module
from esper_actors.training.learner.ppo import POLICY_INIT
from esper_ray.environment import MorphogenesisEnv, Observation
from esper_ray.leyline.config.layers import load_preset
from esper_ray.leyline.config.loading import build_complete
from esper_ray.leyline.config.run import RunConfig
from esper_ray.tolaria.assembly import derived_seed

ENVIRONMENT = "esper_ray"
OUTCOMES = ("val_accuracy_pp", "committed_accuracy_pp", "growth_ratio")
"""Keys of the last info that are reported, besides the return."""
INFO_KEYS = ("episode_seed", "epoch", "operation", "success", "illegal", *OUTCOMES)
"""Keys of an info that remain; RLlib stores and sends the infos of all steps."""


class WholeEpisodes(gymnasium.Wrapper[Observation, np.ndarray[Any, np.dtype[np.int64]], Any, Any]):
    """A wrapper of ``MorphogenesisEnv`` for generic algorithms.

    - An episode that reaches its length is reported as ``terminated``: the observation contains the time left, and all
      accounts are settled then. With ``truncated`` a learner would add a bootstrap value.
    - Each episode has its own seed, derived from the given seed and its number since. RLlib passes the same seed before
      each sample of whole episodes, so that every round would repeat the same episodes.
    - The last info holds ``rewards_by_cause``: each amount at the step that caused it, padded with zeros.
    """

    env: MorphogenesisEnv

    def __init__(self, env: MorphogenesisEnv) -> None:
        super().__init__(env)
        self._seed: int | None = None
        self._episodes = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        if seed is not None and seed != self._seed:
            self._seed, self._episodes = seed, 0
        elif self._seed is None:
            self._seed = int(np.random.SeedSequence().generate_state(1)[0])
        observation, info = self.env.reset(seed=derived_seed(self._seed, self._episodes), options=options)
        self._episodes += 1
        return observation, _reduced_info(info)

    def step(
        self, action: np.ndarray[Any, np.dtype[np.int64]]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        reduced, over = _reduced_info(info), terminated or truncated
        if over:
            reduced["rewards_by_cause"] = np.zeros(self.env.config.episode_length)
            reduced["rewards_by_cause"][: self.env.epoch] = self.env.ledger.by_cause(self.env.epoch)
        return observation, reward, over, False, reduced


def make_rllib_environment(context: Mapping[str, Any]) -> WholeEpisodes:
    """The environment of RLlib's ``env_config``.

    Args:
        context: ``config`` (a ``RunConfig`` as a dictionary), or ``preset`` and ``overrides``; and ``device``.

    Raises:
        ConfigError: if the preset does not exist or an override is not valid.
    """
    if "config" in context:
        config = build_complete(context["config"])
    else:
        config = load_preset(context.get("preset", "digits"), context.get("overrides"))
    if getattr(context, "worker_index", None):  # an RLlib actor, which has its own process
        torch.set_num_threads(config.system.threads)
    return WholeEpisodes(MorphogenesisEnv(config, context.get("device", "cpu")))


def register_environment() -> None:
    """Make the environment known to RLlib and Tune as ``esper_ray``."""
    register_env(ENVIRONMENT, make_rllib_environment)


def ppo_config(config: RunConfig) -> PPOConfig:
    """RLlib's PPO with our policy, our loss and the settings of ``config``.

    The share of uniform choices is not used.

    What it avoids, and would meet with RLlib's defaults or stock loss:

    - ``max_seq_len`` of an episode: RLlib adds a step to each, which makes a second, empty row and a loss of NaN.
    - ``minibatch_size`` is in steps and rounded down to rows, to none at times: here it is whole rows and a step more.
    - Advantages standardised over padding and added steps, and value targets that change between versions: ours.
    - Modules that draw again in the update, so that ratios are not 1, or that change the batch in place: ours does not.
    - ``vf_clip_param`` (10) cuts off the gradient of large errors; ``use_kl_loss`` adds a penalty whose coefficient one
      NaN breaks; ``lambda_`` is 1, ``entropy_coeff`` 0, ``grad_clip`` none, and a batch is passed over 30 times.
    - ``sample_timeout_s`` (60) throws the data of slow environments away, and trains on nothing if all are slow.
    - ``batch_mode``: fragments of episodes would miss what later steps credit to earlier ones. A round waits for its
      longest episode therefore; APPO does not.
    - ``restart_failed_sub_environments`` resets all environments of an actor. A crash loses an episode in either case.
    - ``observation_filter`` would standardise masks and codes; the network has a normalizer for what is continuous.
    - Actors without a GPU see all of them, and fractions are bookkeeping only: devices are given explicitly.
    - The same seed is given before each sample, see :class:`WholeEpisodes`.

    What remains: with a seed, RLlib seeds the generators of the calling process too, and on a CPU build of torch makes
    it use deterministic algorithms only; its checkpoints are pickles.
    """
    envs, length, ppo = config.system.envs, config.episode_length, config.ppo
    minibatch = ppo.minibatch_episodes * (length + 1) + 1
    algorithm = _common(PPOConfig(), config).env_runners(batch_mode="complete_episodes")
    bonus = {"entropy_bonus": ppo.entropy_bonus}
    return algorithm.learners(learner_class=FactoredPPOLearner, learner_config_dict=bonus).training(
        gamma=config.gamma,
        lambda_=ppo.gae_lambda,
        lr=_lr_schedule(config),
        num_epochs=ppo.epochs,
        train_batch_size_per_learner=envs * length,
        minibatch_size=minibatch if minibatch <= envs * length else None,
        shuffle_batch_per_epoch=True,
        clip_param=ppo.clip,
        vf_loss_coeff=ppo.value_coefficient,
        vf_clip_param=math.inf,
        entropy_coeff=_entropy_schedule(config),
        use_kl_loss=False,
        kl_coeff=0.0,
        kl_target=ppo.target_kl,
        grad_clip=ppo.grad_clip,
        grad_clip_by="global_norm",
    )


def appo_config(config: RunConfig) -> APPOConfig:
    """RLlib's asynchronous PPO with our policy and RLlib's own loss.

    The loss has one ratio and one advantage for a whole action.

    Fragments are as long as episodes and rows one step longer, so that a row holds one episode. An iteration is a round
    of episodes, not ten seconds. The critic stays in units of reward and the network's normalizer as it began; APPO has
    no place to learn them.
    """
    ppo, length = config.ppo, config.episode_length
    algorithm = _common(APPOConfig(), config).env_runners(
        batch_mode="truncate_episodes", rollout_fragment_length=length
    )
    algorithm = algorithm.reporting(
        min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=config.system.envs * length
    )
    return algorithm.training(
        gamma=config.gamma,
        lr=_lr_schedule(config),
        train_batch_size_per_learner=ppo.minibatch_episodes * length,
        clip_param=ppo.clip,
        vf_loss_coeff=ppo.value_coefficient,
        entropy_coeff=_entropy_schedule(config),
        use_kl_loss=False,
        grad_clip=ppo.grad_clip,
        grad_clip_by="global_norm",
        target_network_update_freq=1,
        circular_buffer_num_batches=4,
        circular_buffer_iterations_per_batch=ppo.epochs,
    )


def policy_weights(algorithm: Any) -> dict[str, torch.Tensor]:
    """Policy weights of an RLlib algorithm, as for ``LearnedPolicy.load`` and policy bundles."""
    prefix = "network."
    state = algorithm.learner_group.get_weights()["default_policy"]
    return {
        name.removeprefix(prefix): torch.as_tensor(array) for name, array in state.items() if name.startswith(prefix)
    }


def report_outcome(*, episode: Any, metrics_logger: Any, **kwargs: Any) -> None:
    """RLlib callback at the end of an episode: means over 20 episodes."""
    last = episode.get_infos(-1)
    for name in OUTCOMES:
        metrics_logger.log_value(name, last[name], window=20)


def _common(algorithm: Any, config: RunConfig) -> Any:
    """Environment, module, actors, devices and seeds."""
    register_environment()
    system = config.system
    runners = max(math.ceil(system.envs / system.envs_per_actor), 1)
    on_gpu, learns_on_gpu = system.devices[0] != "cpu", system.device != "cpu"
    gpus = len({*system.devices, system.device} - {"cpu"})
    share = 1.0 / math.ceil((runners * on_gpu + learns_on_gpu) / gpus) if gpus else 0.0
    places = {"config": config.model_dump(mode="json"), "device": "cuda" if on_gpu else "cpu"}
    spec = {
        "policy": config.policy.model_dump(),
        "max_seq_len": config.episode_length + 1,
        "weights_seed": derived_seed(config.seed, POLICY_INIT),
    }
    return (
        algorithm.api_stack(enable_rl_module_and_learner=True, enable_env_runner_and_connector_v2=True)
        .environment(ENVIRONMENT, env_config=places)
        .framework("torch")
        .rl_module(rl_module_spec=RLModuleSpec(module_class=PolicyV2Module, model_config=spec))
        .env_runners(
            num_env_runners=runners,
            num_envs_per_env_runner=1,
            num_cpus_per_env_runner=1,
            num_gpus_per_env_runner=share if on_gpu else 0,
            sample_timeout_s=None,
        )
        .learners(num_learners=0, num_gpus_per_learner=share if learns_on_gpu else 0)
        .fault_tolerance(restart_failed_env_runners=True, restart_failed_sub_environments=False)
        .callbacks(on_episode_end=report_outcome)
        .debugging(seed=config.seed, log_level="ERROR")
    )


def _entropy_schedule(config: RunConfig) -> float | list[list[float]]:
    """Weight of the entropy bonus by environment steps: the same in every round as our learner's."""
    ppo, steps = config.ppo, config.system.envs * config.episode_length
    if ppo.schedule_length == 1:
        return ppo.entropy_start
    return [[0, ppo.entropy_start], [(ppo.schedule_length - 1) * steps, ppo.entropy_end]]


def _lr_schedule(config: RunConfig) -> float | list[list[float]]:
    """Learning rate by environment steps: the same in every round as our learner's."""
    ppo, steps = config.ppo, config.system.envs * config.episode_length
    if ppo.lr_end is None or ppo.schedule_length == 1:
        return ppo.lr
    return [[0, ppo.lr], [(ppo.schedule_length - 1) * steps, ppo.lr_end]]


def _reduced_info(info: Mapping[str, Any]) -> dict[str, Any]:
    return {key: info[key] for key in INFO_KEYS}
