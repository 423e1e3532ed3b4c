"""Memory that a configuration needs, by arithmetic, before anything is allocated."""

import time

import pytest

from esper_policies.network import parameter_count
from esper_ray.kasmina.hosts import build_host
from esper_ray.leyline.config.host import CNNHostConfig, MLPHostConfig, TransformerHostConfig
from esper_ray.leyline.config.loading import ConfigError, build, preset_names, read_preset
from esper_ray.leyline.config.memory import (
    SLOT_BYTES,
    STEP_BYTES,
    TRAINED,
    batch_demand,
    episodes_demand,
    host_demand,
    minibatch_demand,
    policy_demand,
)
from esper_ray.leyline.config.run import PolicyConfig
from esper_ray.leyline.context import CONTEXT_SIZE
from esper_ray.leyline.observation import observation_size

MLP = {"family": "mlp", "width": 16, "blocks": 3, "expansion": 2, "dropout": 0.0}
DECODER = {"family": "transformer", "heads": 1, "dropout": 0.0, "segments": 3}


def test_a_step_counts_its_observation():
    assert 4 * (observation_size(1) - observation_size(0) + CONTEXT_SIZE) + 14 == SLOT_BYTES
    assert 4 * observation_size(0) + 200 == STEP_BYTES


def test_the_arithmetic_of_episodes_and_minibatches():
    demand = episodes_demand(1000, 100, 3)
    assert demand.size == 1000 * 100 * (3 * 170 + 292)
    assert demand.describe() == (
        "the episodes of a round: system.envs 1,000 x episode_length 100 x 802 bytes of 3 slots = 0.1 GiB"
    )
    assert minibatch_demand(2, 40, 512, 256).size == 2 * 40 * (12 * 256 + 512) * 4


@pytest.mark.parametrize(("features", "memory"), [(512, 512), (2048, 1024), (64, 4096)])
def test_the_policy_is_most_of_its_real_parameters(features, memory):
    real = parameter_count(PolicyConfig(feature_size=features, memory_size=memory)) * TRAINED
    assert 0.5 * real < policy_demand(features, memory).size <= real


@pytest.mark.parametrize(
    ("host", "shape"),
    [
        (CNNHostConfig(base_channels=32, blocks=4, pools=2, kernel_size=3), (3, 16, 16)),
        (MLPHostConfig(width=128, blocks=3, expansion=4), (16,)),
        (TransformerHostConfig(embedding=96, heads=6, layers=6, context=32, segments=3), (32,)),
    ],
    ids=["cnn", "mlp", "transformer"],
)
def test_a_host_is_most_of_its_real_parameters(host, shape):
    real = sum(parameter.numel() for parameter in build_host(host, shape, 10).module.parameters()) * TRAINED
    assert 0.5 * real < host_demand(host).size <= real


def test_pixels_count_for_the_batch_of_a_cnn():
    host = CNNHostConfig(base_channels=2, blocks=3, pools=1)
    assert batch_demand(host, 10, 0).size == 10 * 4 * (4 * (2 + 4 + 8))
    assert batch_demand(host, 10, 0, pixels=64).size == 10 * 4 * (4 * (2 * 64 + 4 * 16 + 8 * 16))


@pytest.mark.parametrize("name", preset_names())
def test_shipped_presets_need_less_than_two_gibibytes(name):
    assert sum(demand.size for demand in build(read_preset(name)).memory_demands(pixels=1024)) < 2**31


REFUSED = {
    "episodes": (
        {"system.envs": 10_000, "episode_length": 100_000},
        "the episodes of a round: system.envs 10,000 x episode_length 100,000 x 802 bytes of 3 slots = 746.9 GiB",
    ),
    "minibatch": (
        {"system.envs": 1000, "ppo.minibatch_episodes": 1000, "episode_length": 20_000},
        "a minibatch of the policy: 1,000 episodes x episode_length 20,000 x (12 x policy.memory_size 512 + ",
    ),
    "channels": (
        {"host.base_channels": 4096, "host.blocks": 16},
        "a host: host.kernel_size 1² x channels 67,108,864 x 134,217,728 of the last block",
    ),
    "width": (
        {"host": MLP | {"width": 65_536, "expansion": 64}},
        "a host: host.blocks 3 x 2 x host.width 65,536 x 4,194,304 hidden units x 16 bytes",
    ),
    "decoder": (
        {"host": DECODER | {"embedding": 16_384, "layers": 255, "context": 64}},
        "a host: host.layers 255 x 12 x host.embedding 16,384² x 16 bytes",
    ),
    "attention": (
        {"host": DECODER | {"embedding": 64, "layers": 3, "context": 65_536}, "task.block_size": 65_536},
        "a batch of the host: training.batch_size 64 x host.layers 3 x task.block_size 65,536 x (16 x host.embedding",
    ),
    "batch": (
        {"host": MLP | {"width": 4096}, "training.batch_size": 1_000_000},
        "a batch of the host: training.batch_size 1,000,000 x host.blocks 3 x 2 x host.width 4,096 x (1 + 2) x 4 bytes",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_product_that_exceeds_the_limit_is_refused_with_its_arithmetic(case):
    overrides, expected = REFUSED[case]
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        build({}, overrides)
    assert expected in str(caught.value)
    assert str(caught.value).endswith("GiB, more than the limit of 64 GiB")
    assert time.process_time() - began < 1
