"""Accuracy of a host without growth: the curve that growth is compared with."""

import torch

from esper_ray.leyline.config.run import RunConfig
from esper_ray.runtime.host import HostRuntime
from esper_ray.tolaria.assembly import AnyData, HostBuilder

CURVES_KEPT = 64
"""Most curves that are cached."""


class NoGrowthBaseline:
    """Validation accuracies of episodes without operations, each computed once and cached.

    The control of an episode is the same host on the same data in the same order, since it has the same seed: until
    a seed first touches the network, both learn exactly the same.
    """

    def __init__(self, config: RunConfig, data: AnyData, device: torch.device, host: HostBuilder) -> None:
        self._config, self._data, self._device, self._host = config, data, device, host
        self._curves: dict[int, tuple[float, ...]] = {}

    def curve(self, seed: int) -> tuple[float, ...]:
        """(steps + 1,) validation accuracies in percentage points, that before the first epoch first.

        Raises:
            DeviceMemoryError: if the device has no memory for the host.
        """
        if seed not in self._curves:
            if len(self._curves) >= CURVES_KEPT:
                del self._curves[next(iter(self._curves))]
            self._curves[seed] = self._computed(seed)
        return self._curves[seed]

    def _computed(self, seed: int) -> tuple[float, ...]:
        runtime = HostRuntime(self._config, self._data, self._device, self._host, seed)
        first = runtime.measured.accuracy_pp
        return (first, *(measured.accuracy_pp for measured in runtime.run_without_policy()))
