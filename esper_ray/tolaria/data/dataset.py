"""Interface of a data set: examples by row, as tensors on one device."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sized
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

S = TypeVar("S", bound=Sized)
"""A split: its length is its number of examples."""


@dataclass(frozen=True, slots=True)
class EpochPlan:
    """Rows and augmentation draws of an epoch, on the device of the data."""

    rows: Tensor
    """(steps, batch) int64 rows of the training split."""
    draws: Tensor
    """(steps, batch, k) int64 random numbers of the augmentation; k is 0 without one."""


class Dataset(ABC, Generic[S]):
    """Three disjoint splits that live on one device, one copy per process."""

    train: S
    validation: S
    test: S
    classes: int
    """Number of target values: classes of images, or the vocabulary of text."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of the examples."""

    @property
    @abstractmethod
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one input: (C, H, W) of images, (T,) of text."""

    @abstractmethod
    def prepared(self, split: S, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the examples ``start`` to ``stop`` of ``split``, not augmented."""

    @abstractmethod
    def training_batch(self, rows: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of training examples, augmented by ``draws``, without device synchronisation.

        Args:
            rows: (B,) int64.
            draws: (B, k) int64 as :meth:`draw` makes them.
        """

    @abstractmethod
    def draw(self, generator: torch.Generator, steps: int, batch_size: int) -> Tensor:
        """(steps, batch_size, k) int64 random numbers, on the CPU, for the augmentation of an epoch."""

    @abstractmethod
    def contents(self) -> tuple[Tensor, ...]:
        """The stored tensors of all splits, in a fixed order."""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over shapes and contents, in hexadecimal; computed once."""
        digest = hashlib.sha256(f"{self.classes} {self.example_shape}".encode())
        for tensor in self.contents():
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    @property
    def random_guess_loss(self) -> float:
        """Cross-entropy in nats of a uniform prediction."""
        return float(np.log(self.classes))

    def plan(self, seed: int, epoch: int, batch_size: int, steps: int) -> EpochPlan:
        """Examples and augmentation of one epoch, a pure function of ``seed`` and ``epoch``.

        Raises:
            ValueError: if a batch is larger than the training split.
        """
        rows = epoch_batches(seed, epoch, len(self.train), batch_size, steps)
        draws = self.draw(keyed_generator(seed, epoch, 1), steps, batch_size)
        return EpochPlan(moved(rows, self.device), moved(draws, self.device))


def keyed_generator(*key: int) -> torch.Generator:
    """A generator on the CPU whose stream depends on ``key`` alone."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(list(key)).generate_state(1)[0]))


def moved(values: Tensor, device: torch.device) -> Tensor:
    """``values`` on ``device``, without synchronisation."""
    return values if device.type == "cpu" else values.pin_memory().to(device, non_blocking=True)


def epoch_batches(seed: int, epoch: int, rows: int, batch_size: int, steps: int) -> Tensor:
    """(steps, batch_size) int64 row indices of one epoch, a pure function of ``seed`` and ``epoch``.

    Rows are drawn without replacement; when a pass over the data is used up, the next one is shuffled anew.

    Raises:
        ValueError: if a batch is larger than the data.
    """
    if batch_size > rows:
        raise ValueError(f"batch size {batch_size} exceeds the {rows} training examples")
    generator = keyed_generator(seed, epoch)
    needed = steps * batch_size
    passes = -(-needed // rows)
    order = torch.cat([torch.randperm(rows, generator=generator) for _ in range(passes)])
    return order[:needed].reshape(steps, batch_size)
