"""A task that a linear host cannot learn and a seed can, for the trainers of other libraries."""

import hashlib

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from esper_ray.growing import GrowthSession, grow
from esper_ray.kasmina.modules import seeded_initialisation

EPOCHS = 14
ROWS = 96


class Linear(nn.Module):
    """Two layers without a nonlinearity; with labels it returns its loss, as models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        logits = self.head(self.first(x))
        return logits if labels is None else {"loss": cross_entropy(logits, labels), "logits": logits}


def examples(rows: int = ROWS, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points and whether their first two coordinates have one sign."""
    x = torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, 0] * x[:, 1] > 0).long()


def session(held_out: slice = slice(None)) -> GrowthSession:
    """A session whose script grows one seed and commits it.

    Args:
        held_out: rows of the 64 held-out examples.
    """
    x, y = examples(64, seed=1)
    with seeded_initialisation(0):
        host = Linear()
    return grow(
        host,
        (x[held_out], y[held_out]),
        slots={"r0c0": "first"},
        policy="schedule",
        epochs=EPOCHS,
        optimizer=torch.optim.AdamW,
        lr=0.02,
        growth={"blueprints": ["mlp_small"], "min_gradient_health": 0.0},
        report=lambda _line: None,
    )


def digest(module: nn.Module) -> str:
    """SHA-256 of all parameters."""
    data = b"".join(parameter.detach().numpy().tobytes() for parameter in module.parameters())
    return hashlib.sha256(data).hexdigest()
