"""Text data sets on the device: a row of tokens, cut into blocks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from esper_ray.tolaria.data.dataset import Dataset


@dataclass(frozen=True, slots=True)
class TokenSplit:
    """A split of text. Example i: the ``block`` tokens from ``i * block`` on, and their successors."""

    tokens: Tensor
    """(N,) uint8 or int32."""
    block: int

    def __len__(self) -> int:
        return max(0, (len(self.tokens) - 1) // self.block)


@dataclass(frozen=True, eq=False)
class TokenData(Dataset[TokenSplit]):
    """Three consecutive splits of text and their vocabulary."""

    train: TokenSplit
    validation: TokenSplit
    test: TokenSplit
    classes: int
    shifted: bool = False
    """Whether training blocks are shifted at random by up to a block."""

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: if a split is shorter than one block plus one token, block sizes differ, or a token is invalid.
        """
        for split in (self.train, self.validation, self.test):
            if split.block < 1 or split.block != self.train.block:
                raise ValueError(f"blocks must be at least 1 token long and alike in all splits, got {split.block}")
            if split.tokens.dtype not in (torch.uint8, torch.int32, torch.int64) or split.tokens.dim() != 1:
                raise ValueError(
                    f"tokens must be one row of whole numbers, got {split.tokens.dtype} {tuple(split.tokens.shape)}"
                )
        for name, split in {"training": self.train, "validation": self.validation, "test": self.test}.items():
            if len(split) < 1:
                raise ValueError(
                    f"the {name} split has {len(split.tokens)} tokens; a block of {split.block} needs {split.block + 1}"
                )
            low, high = split.tokens.min().item(), split.tokens.max().item()
            if not 0 <= low <= high < self.classes:
                raise ValueError(f"{name} tokens must lie in 0..{self.classes - 1}, got {low}..{high}")

    @property
    def device(self) -> torch.device:
        """Device of the tokens."""
        return self.train.tokens.device

    @property
    def example_shape(self) -> tuple[int, ...]:
        """(T,)."""
        return (self.train.block,)

    def contents(self) -> tuple[Tensor, ...]:
        """See :meth:`Dataset.contents`."""
        return tuple(split.tokens for split in (self.train, self.validation, self.test))

    def prepared(self, split: TokenSplit, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """See :meth:`Dataset.prepared`; (B, T) int64 tokens and their successors."""
        return _blocks(split, torch.arange(start, min(stop, len(split)), device=self.device) * split.block)

    def training_batch(self, rows: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Dataset.training_batch`; the draw is the shift of each block."""
        starts = rows * self.train.block
        if self.shifted:
            starts = (starts + draws[:, 0]).clamp(max=len(self.train.tokens) - self.train.block - 1)
        return _blocks(self.train, starts)

    def draw(self, generator: torch.Generator, steps: int, batch_size: int) -> Tensor:
        """See :meth:`Dataset.draw`."""
        if not self.shifted:
            return torch.empty((steps, batch_size, 0), dtype=torch.int64)
        return torch.randint(self.train.block, (steps, batch_size, 1), generator=generator)


def _blocks(split: TokenSplit, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets, each (B, T) int64, of the blocks that begin at ``starts``."""
    places = starts[:, None] + torch.arange(split.block + 1, device=starts.device)
    tokens = split.tokens[places].long()
    return tokens[:, :-1], tokens[:, 1:]
