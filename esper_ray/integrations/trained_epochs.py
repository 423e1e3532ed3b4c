"""What the callbacks of all trainers have in common: epochs, and the pass of incubating seeds."""

import math
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from esper_ray.growing import GrowthSession


class TrainedEpochs:
    """Epochs of a session within a trainer of another library."""

    def __init__(self, growing: GrowthSession) -> None:
        self.growing = growing

    def check_model(self, module: nn.Module) -> None:
        """
        Raises:
            ValueError: if ``module`` does not hold the growing model.
        """
        if all(part is not self.growing.model for part in module.modules()):
            raise ValueError(
                f"{type(module).__name__} does not hold growing.model; train the growing model, not the host in it"
            )

    def check_optimizer(self, optimizers: list[Any]) -> None:
        """
        Raises:
            ValueError: if none of ``optimizers`` is that of the session.
        """
        unwrapped = [getattr(optimizer, "optimizer", optimizer) for optimizer in optimizers]
        if all(optimizer is not self.growing.optimizer for optimizer in unwrapped):
            names = ", ".join(type(optimizer).__name__ for optimizer in unwrapped) or "none"
            raise ValueError(f"the trainer has the optimizers {names}; it must step growing.optimizer")

    def check_length(self, epochs: float) -> None:
        """
        Raises:
            ValueError: if the trainer trains more or fewer epochs than the session.
        """
        if epochs != self.growing.epochs:
            raise ValueError(
                f"the trainer trains {epochs:g} epochs and the growth {self.growing.epochs}; give both the same number"
            )

    def begin(self) -> None:
        """Let the policy act before an epoch."""
        self.growing.begin_epoch()

    def end(self) -> None:
        """Measure and judge an epoch, once."""
        if self.growing.epoch_is_open:
            self.growing.end_epoch()

    def finish(self) -> None:
        """Commit or remove what is alive, after the last epoch."""
        growing = self.growing
        if growing.options.settle_at_end and growing.endings is None and growing.epoch >= growing.epochs:
            growing.finish()


def first_rows(batch: Any, share: float) -> Any:
    """The first ``share`` of the rows of ``batch``, at least one.

    Tensors with as many rows as the first one are cut; other values are unchanged.
    """
    rows = next((len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()), 0)
    kept = max(1, math.ceil(share * rows))
    return tree_map(
        lambda leaf: leaf[:kept] if isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == rows else leaf, batch
    )
