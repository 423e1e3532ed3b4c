"""The stages of a seed and the transitions between them.

The integers are part of saved records. 5 is reserved: it belonged to a stage that no longer exists.
"""

from enum import IntEnum
from types import MappingProxyType


class Stage(IntEnum):
    """Stage of a seed's lifecycle."""

    UNKNOWN = 0
    DORMANT = 1
    GERMINATED = 2
    TRAINING = 3
    BLENDING = 4
    HOLDING = 6
    FOSSILIZED = 7
    PRUNED = 8
    EMBARGOED = 9
    RESETTING = 10


STAGES: tuple[Stage, ...] = tuple(Stage)
"""All stages in the order of the one-hot code (index 0 is ``UNKNOWN``)."""

TRANSITIONS = MappingProxyType(
    {
        Stage.UNKNOWN: (Stage.DORMANT,),
        Stage.DORMANT: (Stage.GERMINATED,),
        Stage.GERMINATED: (Stage.TRAINING, Stage.PRUNED),
        Stage.TRAINING: (Stage.BLENDING, Stage.PRUNED),
        Stage.BLENDING: (Stage.HOLDING, Stage.PRUNED),
        Stage.HOLDING: (Stage.FOSSILIZED, Stage.BLENDING, Stage.PRUNED),
        Stage.FOSSILIZED: (),
        Stage.PRUNED: (Stage.EMBARGOED,),
        Stage.EMBARGOED: (Stage.RESETTING,),
        Stage.RESETTING: (Stage.DORMANT,),
    }
)
"""Legal next stages; ADVANCE leads to the first."""

DEVELOPING = frozenset({Stage.GERMINATED, Stage.TRAINING})
"""Stages in which a seed does not yet change the host's output."""

AMPLIFIED = frozenset({Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED})
"""Stages in which a seed changes the host's output by its amplitude alpha."""

IN_FORWARD = AMPLIFIED | {Stage.TRAINING}
"""Stages in which the seed module is called."""

PRUNABLE = frozenset({Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING})
"""Stages in which a seed can be pruned: it is live and not committed."""

COMMITTED = frozenset({Stage.FOSSILIZED})
"""Stages in which a seed is a permanent part of the network."""

COOLDOWN = frozenset({Stage.PRUNED, Stage.EMBARGOED, Stage.RESETTING})
"""Stages after removal: the slot has no module and is not free yet."""

WITH_MODULE = PRUNABLE | COMMITTED
"""Stages in which the slot holds a seed module."""


def can_transition(source: Stage, target: Stage) -> bool:
    """Whether ``source`` may be followed by ``target``."""
    return target in TRANSITIONS[source]
