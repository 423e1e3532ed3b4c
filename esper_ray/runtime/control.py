"""Accuracy of a host without growth: the curve that growth is compared with."""

import torch

from esper_ray.leyline.config.run import RunConfig
from esper_ray.runtime.host import EpisodeRuntime
from esper_ray.tolaria.assembly import AnyData, HostBuilder

MAX_CACHED_CURVES = 64
"""Maximum number of cached curves."""


class NoGrowthBaseline:
    """Baseline of episodes without operations: validation accuracies, computed once and cached.

    The control of an episode is the same host on the same data in the same order, since it has the same seed. Both
    are bit-equal until a seed first changes the network.
    """

    def __init__(self, config: RunConfig, data: AnyData, device: torch.device, host: HostBuilder) -> None:
        self._config, self._data, self._device, self._host = config, data, device, host
        self._curves: dict[int, tuple[float, ...]] = {}

    def curve(self, seed: int) -> tuple[float, ...]:
        """(steps + 1,) validation accuracies in percentage points, beginning before the first epoch.

        Raises:
            DeviceMemoryError: if the device has no memory for the host.
        """
        if seed not in self._curves:
            if len(self._curves) >= MAX_CACHED_CURVES:
                del self._curves[next(iter(self._curves))]
            self._curves[seed] = self._compute(seed)
        return self._curves[seed]

    def _compute(self, seed: int) -> tuple[float, ...]:
        runtime = EpisodeRuntime(self._config, self._data, self._device, self._host, seed)
        first = runtime.measured.accuracy_pp
        return (first, *(measured.accuracy_pp for measured in runtime.run_without_policy()))
