"""What modules need to know about symbolic tracing, so that they can be built into a plain network."""

from torch.fx import Proxy


def is_symbolic(value: object) -> bool:
    """Whether ``value`` only stands for a value, because a module is being traced: it cannot be looked at."""
    return isinstance(value, Proxy)
