"""What a host learns without growth: the curve that growth is compared with."""

import torch

from esper_ray.leyline.config.run import RunConfig
from esper_ray.runtime.host import HostRuntime
from esper_ray.tolaria.assembly import AnyData, HostBuilder

KEPT = 64
"""Curves that are remembered."""


class NoGrowthBaseline:
    """Validation accuracies of episodes in which nothing is ever done. Each is computed once, and then frozen.

    The control of an episode is the same host on the same data in the same order, since it has the same seed: up to
    the moment in which a seed first touches the network, both learn exactly the same.
    """

    def __init__(self, config: RunConfig, data: AnyData, device: torch.device, host: HostBuilder) -> None:
        self._config, self._data, self._device, self._host = config, data, device, host
        self._curves: dict[int, tuple[float, ...]] = {}

    def of(self, seed: int) -> tuple[float, ...]:
        """(steps + 1,) validation accuracies in percentage points, that before the first epoch first.

        Raises:
            DeviceMemoryError: if the device has no memory for the host.
        """
        if seed not in self._curves:
            if len(self._curves) >= KEPT:
                del self._curves[next(iter(self._curves))]
            self._curves[seed] = self._played(seed)
        return self._curves[seed]

    def _played(self, seed: int) -> tuple[float, ...]:
        life = HostRuntime(self._config, self._data, self._device, self._host, seed)
        return (life.first_accuracy_pp, *(measured.accuracy_pp for measured in life.live_alone()))
