"""Running moments with an exact merge of batches."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and sum of squared deviations, element by element."""

    count: float
    mean: FloatArray
    squares: FloatArray

    @classmethod
    def none(cls, size: int) -> "Moments":
        """Moments of no data in ``size`` dimensions."""
        return cls(0.0, np.zeros(size), np.zeros(size))

    def merged(self, rows: FloatArray) -> "Moments":
        """These moments merged with ``rows``, (N, size).

        Source: Chan, Golub and LeVeque, Updating formulae for computing sample variances (1979).
        """
        if len(rows) == 0:
            return self
        count, mean = float(len(rows)), rows.mean(axis=0)
        squares = ((rows - mean) ** 2).sum(axis=0)
        total, delta = self.count + count, mean - self.mean
        return Moments(
            total,
            self.mean + delta * count / total,
            self.squares + squares + delta**2 * self.count * count / total,
        )

    @property
    def deviation(self) -> FloatArray:
        """Population standard deviation; 1 where there is no spread or no data."""
        if self.count == 0:
            return np.ones_like(self.mean)
        variance = self.squares / self.count
        return np.where(variance > 1e-12, np.sqrt(variance), 1.0)
