"""Options of a growth session."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """Options of a session."""

    clip: float | None = 1.0
    """Maximum gradient norm of the host, and of each live seed, in ``train_step``; ``None`` for no limit."""
    incubation_share: float = 0.25
    """Share of each batch in the shadow pass of incubating seeds, in ``train_step``."""
    fold: bool = True
    """Whether a committed seed of a span becomes part of its layers at once.

    It stays a seed while another module, such as ``DistributedDataParallel``, computes the training loss.
    """
    target: int | None = None
    """Parameters of host and seeds that growth leads to and does not exceed; ``None`` for no target."""
    settle_at_end: bool = True
    """Whether :meth:`~esper_ray.growing.session.GrowthSession.finish` is called after the last epoch."""
