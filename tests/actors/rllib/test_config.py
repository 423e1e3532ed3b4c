"""The environment and the presets of the RLlib adapter."""

import pytest
from learner_builders import small_config

from esper_ray.environment import MorphogenesisEnv

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]


def test_an_episode_terminates_and_its_rewards_by_cause_sum_to_its_return(episodes):
    for episode in episodes:
        amounts = episode.get_infos(-1)["rewards_by_cause"]
        assert episode.is_terminated
        assert not episode.is_truncated
        assert amounts.sum() == pytest.approx(episode.get_return(), abs=1e-5)


def test_no_two_episodes_have_the_same_seed(episodes):
    """RLlib passes the same seed before each sample of whole episodes."""
    assert len({int(episode.get_infos(-1)["episode_seed"]) for episode in episodes}) == 3


def test_a_repeated_seed_continues_its_episodes_and_a_new_seed_starts_others(config):
    from esper_actors.rllib.config import WholeEpisodes

    env, second_env = (WholeEpisodes(MorphogenesisEnv(config)) for _ in range(2))
    first, second, third, fourth = (env.reset(seed=seed)[1]["episode_seed"] for seed in (1, 1, 2, None))
    assert len({first, second, third, fourth}) == 4
    assert [second_env.reset(seed=seed)[1]["episode_seed"] for seed in (2, 2)] == [third, fourth]


def test_an_environment_is_built_from_a_preset_and_overrides():
    from esper_actors.rllib.config import make_rllib_environment

    env = make_rllib_environment({"preset": "digits", "overrides": {"growth.slots": ["r0c1"]}})
    assert env.observation_space["blueprints"].shape == (1,)


def test_presets_hold_an_episode_in_a_row_and_have_no_sample_timeout(config):
    from esper_actors.rllib.config import appo_config, ppo_config

    for preset in (ppo_config(config), appo_config(config)):
        assert preset.rl_module_spec.model_config["max_seq_len"] == 6 + 1
        assert preset.sample_timeout_s is None
        assert (preset.num_gpus_per_env_runner, preset.env_config["device"]) == (0, "cpu")
    assert ppo_config(config).minibatch_size is None  # all three episodes at a time: the whole batch
    assert ppo_config(small_config(episode_length=40, system__envs=8)).minibatch_size == 2 * 41 + 1
    assert ppo_config(config).entropy_coeff == [[0, 0.02], [2 * 3 * 6, 0.005]]
    assert ppo_config(small_config(ppo__rounds=1)).entropy_coeff == 0.02


def test_env_runners_and_learner_share_a_gpu():
    from esper_actors.rllib.config import ppo_config

    preset = ppo_config(small_config(system__device="cuda:0", system__devices=("cuda:0",)))
    assert preset.num_gpus_per_env_runner == preset.num_gpus_per_learner == pytest.approx(1 / 3)
    assert preset.env_config["device"] == "cuda"
    spread = ppo_config(small_config(system__envs=3, system__device="cpu", system__devices=("cuda:0", "cuda:1")))
    assert (spread.num_gpus_per_env_runner, spread.num_gpus_per_learner) == (0.5, 0)
