"""One RLlib runner and its episodes for all files of this folder, and a guard of the global generators.

The first import of RLlib takes seconds, so everything of it is imported inside the fixtures and tests that need it.
"""

import pytest
import torch
from learner_builders import small_config
from rllib_builders import preserved_generators, quiet_registry


@pytest.fixture(scope="module", autouse=True)
def global_generators():
    """The generators of the process after a file are those before it."""
    with preserved_generators():
        yield


@pytest.fixture(scope="session")
def config():
    return small_config(episode_length=6, system__envs=3, ppo__minibatch_episodes=3)


@pytest.fixture(scope="session")
def preset(config):
    with preserved_generators():  # session fixtures are made before the one of the file, and the import draws numbers
        from esper_actors.rllib.config import ppo_config

        return ppo_config(config)


@pytest.fixture(scope="session")
def runner(preset):
    """RLlib's environment runner, in this process."""
    with preserved_generators(), quiet_registry():
        from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

        runner = SingleAgentEnvRunner(config=preset)
    with torch.no_grad():  # choices that matter: neither nearly uniform nor nearly always WAIT
        for head in (runner.module.network.op_head[-1], runner.module.network.slot_head.score):
            head.weight.mul_(100.0)
        runner.module.network.value_scale.fill_(5.0)
    return runner


@pytest.fixture(scope="session")
def episodes(preset, runner):
    """Three whole episodes, two of them from one sample."""
    with preserved_generators():
        torch.manual_seed(preset.seed)  # actions are drawn from the global generator
        return [*runner.sample(num_episodes=2), *runner.sample(num_episodes=1)]


@pytest.fixture
def learner(preset, runner):
    return preset.build_learner(env=runner.env.unwrapped)
