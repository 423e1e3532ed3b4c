"""Memory that a configuration needs, by arithmetic on its keys, before anything is allocated.

The figures are lower bounds of the right order: what dominates when a key is too large. They leave out the data of the
task, its vocabulary and the seeds.
"""

from dataclasses import dataclass

from esper_ray.leyline.config.host import BuiltInHostConfig, CNNHostConfig, MLPHostConfig

MEMORY_LIMIT = 2**36
"""Most memory of one part of a run on any machine: 64 GiB."""
GIB = 2**30
TRAINED = 16
"""Bytes of a trained parameter: weight, gradient and two moments in float32."""
SLOT_BYTES, STEP_BYTES = 4 * (31 + 8) + 14, 4 * 23 + 200
"""Bytes of a step for each slot and for the rest: observation and context, masks, action and rewards."""
LSTM_VALUES = 12
"""Values that training keeps for each unit of the LSTM and step: gates, states, their gradients."""
DECODER_VALUES = 16
"""Values that training keeps for each unit of a decoder block and token."""


@dataclass(frozen=True, slots=True)
class MemoryDemand:
    """Memory of one part of a run, with its arithmetic."""

    part: str
    arithmetic: str
    """The product of keys, without the result."""
    size: int
    """Bytes."""

    def describe(self) -> str:
        """Part, arithmetic and result in GiB."""
        return f"{self.part}: {self.arithmetic} = {self.size / GIB:,.1f} GiB"


def episodes_demand(envs: int, episode_length: int, slots: int) -> MemoryDemand:
    """Memory of the episodes of a round, which the learner receives together."""
    step = SLOT_BYTES * slots + STEP_BYTES
    arithmetic = f"system.envs {envs:,} x episode_length {episode_length:,} x {step:,} bytes of {slots} slots"
    return MemoryDemand("the episodes of a round", arithmetic, envs * episode_length * step)


def minibatch_demand(episodes: int, episode_length: int, feature_size: int, memory_size: int) -> MemoryDemand:
    """Memory of the policy's activations for a minibatch of whole episodes."""
    arithmetic = (
        f"{episodes:,} episodes x episode_length {episode_length:,} x ({LSTM_VALUES} x policy.memory_size "
        f"{memory_size:,} + policy.feature_size {feature_size:,}) x 4 bytes"
    )
    size = episodes * episode_length * (LSTM_VALUES * memory_size + feature_size) * 4
    return MemoryDemand("a minibatch of the policy", arithmetic, size)


def policy_demand(feature_size: int, memory_size: int) -> MemoryDemand:
    """Memory of the trained policy: weights, gradients and moments."""
    arithmetic = (
        f"(8 x policy.memory_size {memory_size:,} + policy.feature_size {feature_size:,}) x policy.memory_size "
        f"{memory_size:,} x {TRAINED} bytes"
    )
    size = (8 * memory_size + feature_size) * memory_size * TRAINED
    return MemoryDemand("the policy", arithmetic, size)


def host_demand(host: BuiltInHostConfig) -> MemoryDemand:
    """Memory of a trained host: weights, gradients and moments of its widest parts."""
    match host:
        case CNNHostConfig():
            last = host.base_channels * 2 ** (host.blocks - 1)
            arithmetic = (
                f"host.kernel_size {host.kernel_size}² x channels {last // 2:,} x {last:,} of the last block "
                f"(host.base_channels {host.base_channels:,} x 2^(host.blocks {host.blocks} - 1))"
            )
            parameters = host.kernel_size**2 * (last // 2) * last
        case MLPHostConfig():
            arithmetic = (
                f"host.blocks {host.blocks} x 2 x host.width {host.width:,} x {host.expansion * host.width:,} "
                f"hidden units"
            )
            parameters = host.blocks * 2 * host.width * host.expansion * host.width
        case _:
            arithmetic = f"host.layers {host.layers} x 12 x host.embedding {host.embedding:,}²"
            parameters = host.layers * 12 * host.embedding**2
    return MemoryDemand("a host", f"{arithmetic} x {TRAINED} bytes", parameters * TRAINED)


def batch_demand(host: BuiltInHostConfig, batch_size: int, block_size: int, pixels: int = 1) -> MemoryDemand:
    """Memory of the host's activations for a batch.

    Args:
        pixels: of an image, for a CNN; 1 if it is unknown.
    """
    batch = f"training.batch_size {batch_size:,}"
    match host:
        case CNNHostConfig():
            areas = [max(pixels >> 2 * min(index, host.pools), 1) for index in range(host.blocks)]
            values = sum(4 * host.base_channels * 2**index * area for index, area in enumerate(areas))
            arithmetic = f"{batch} x {values:,} values of {host.blocks} blocks"
        case MLPHostConfig():
            values = host.blocks * host.width * 2 * (1 + host.expansion)
            arithmetic = f"{batch} x host.blocks {host.blocks} x 2 x host.width {host.width:,} x (1 + {host.expansion})"
        case _:
            token = DECODER_VALUES * host.embedding + host.heads * block_size
            values = host.layers * block_size * token
            arithmetic = (
                f"{batch} x host.layers {host.layers} x task.block_size {block_size:,} x ({DECODER_VALUES} x "
                f"host.embedding {host.embedding:,} + host.heads {host.heads} x task.block_size {block_size:,})"
            )
    return MemoryDemand("a batch of the host", f"{arithmetic} x 4 bytes", batch_size * values * 4)
