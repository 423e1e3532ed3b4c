"""Layouts of features, and their conversion to the layout that blueprints work in."""

from enum import Enum

from torch import Tensor

from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.config.base import unknown_name_message


class Layout(Enum):
    """Order of the dimensions of features at a slot.

    B counts examples, C and D channels, H and W rows and columns, T and L positions.
    """

    BCHW = "BCHW"
    """Images of convolutional networks."""
    BHWC = "BHWC"
    """Images with channels at the end."""
    BTD = "BTD"
    """Tokens."""
    TBD = "TBD"
    """Tokens, positions first."""
    BCL = "BCL"
    """Signals of one-dimensional convolutions."""
    BD = "BD"
    """Vectors."""

    @classmethod
    def parse(cls, name: "str | Layout") -> "Layout":
        """The layout called ``name``.

        Raises:
            ValueError: if there is no such layout.
        """
        if isinstance(name, Layout):
            return name
        if name not in cls.__members__:
            raise ValueError(unknown_name_message("layout", str(name), list(cls.__members__)))
        return cls[name]

    @property
    def topology(self) -> Topology:
        """Kind of blueprints that fit."""
        return _TOPOLOGY[self]

    @property
    def is_canonical(self) -> bool:
        """Whether blueprints work in this layout: (B, C, H, W), (B, T, D) or (B, D)."""
        return self not in _ORDER

    @property
    def batch(self) -> int:
        """Index of the dimension of examples."""
        return self.value.index("B")

    @property
    def channel(self) -> int:
        """Index of the dimension of channels."""
        return max(self.value.find("C"), self.value.find("D"))

    def canonical(self, features: Tensor) -> Tensor:
        """A view of ``features`` in the layout of the blueprints."""
        return features if self.is_canonical else features.permute(_ORDER[self])

    def restored(self, features: Tensor) -> Tensor:
        """Canonical ``features`` in this layout. Permuted ones are contiguous, since a host may view them."""
        if self.is_canonical:
            return features
        order = _ORDER[self]
        return features.permute([order.index(dim) for dim in range(len(order))]).contiguous()

    def example_shape(self, canonical: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one example in this layout, from its canonical shape."""
        if self.is_canonical:
            return canonical
        order, whole = _ORDER[self], (0, *canonical)
        return tuple(whole[order.index(dim)] for dim in range(len(order)) if dim != self.batch)


_TOPOLOGY = {
    Layout.BCHW: Topology.IMAGES,
    Layout.BHWC: Topology.IMAGES,
    Layout.BTD: Topology.SEQUENCES,
    Layout.TBD: Topology.SEQUENCES,
    Layout.BCL: Topology.SEQUENCES,
    Layout.BD: Topology.FEATURES,
}
_ORDER = {Layout.BHWC: (0, 3, 1, 2), Layout.TBD: (1, 0, 2), Layout.BCL: (0, 2, 1)}
"""Permutation of each layout that is not canonical to the canonical one."""
