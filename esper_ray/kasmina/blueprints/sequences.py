"""Seed bodies for (B, T, D) features that mix tokens."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from esper_ray.kasmina.modules import is_symbolic

WINDOW = 64
"""Number of tokens in the attention window, the current one included."""
FLEX_MIN_WIDTH = 16
"""Minimum head width of FlexAttention's CUDA kernels; they do not compile below it."""


class SelfAttention(nn.Module):
    """Multi-head self-attention, with the most of 4, 2 or 1 heads that divides the width."""

    def __init__(self, width: int, *, causal: bool) -> None:
        super().__init__()
        self.heads = next(heads for heads in (4, 2, 1) if width % heads == 0)
        self.causal = causal
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    @property
    def output_layer(self) -> nn.Linear:
        """Layer whose output is that of the body."""
        return self.project

    def forward(self, h: Tensor) -> Tensor:
        queries, keys, values = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = self._attend(queries, keys, values)
        change: Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return change

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(B, heads, T, D / heads) each."""
        return scaled_dot_product_attention(queries, keys, values, is_causal=self.causal)


class WindowAttention(SelfAttention):
    """Self-attention over the last :data:`WINDOW` tokens, on both sides unless causal.

    On CUDA it runs as FlexAttention, whose block mask skips what the window hides; elsewhere, with narrow
    heads and in exported graphs, as dense attention with the same mask.
    """

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if not is_symbolic(queries) and not torch.compiler.is_exporting() and _flexes(queries):
            mixed: Tensor = flex_window_attention(queries, keys, values, causal=self.causal)
            return mixed
        ages = torch.ones_like(queries[0, 0, :, 0], dtype=torch.int64).cumsum(0)
        lag = ages[:, None] - ages[None, :]
        visible = (lag >= (0 if self.causal else 1 - WINDOW)) & (lag < WINDOW)
        return scaled_dot_product_attention(queries, keys, values, attn_mask=visible)


def _flexes(queries: Tensor) -> bool:
    return queries.is_cuda and queries.shape[-1] >= FLEX_MIN_WIDTH


def flex_window_attention(queries: Tensor, keys: Tensor, values: Tensor, *, causal: bool) -> Any:
    """The attention of :class:`WindowAttention` through FlexAttention; (B, heads, T, D / heads) each.

    Compiled on CUDA; eager, without gradient, elsewhere.
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def visible(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        lag = query - key
        return (lag >= (0 if causal else 1 - WINDOW)) & (lag < WINDOW)

    length = queries.shape[2]
    mask = create_block_mask(visible, None, None, length, length, device=queries.device.type)
    attend = torch.compile(flex_attention, dynamic=False) if queries.is_cuda else flex_attention
    return attend(queries, keys, values, block_mask=mask)
