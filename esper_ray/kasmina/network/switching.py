"""Context of passes that compute many coalitions of seeds at once."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from esper_ray.kasmina.network.branching import forks, subsets
from esper_ray.kasmina.network.slotted import SlottedNetwork
from esper_ray.leyline.records import Members


@contextmanager
def switched(
    model: SlottedNetwork, slots: Members, coalitions: Collection[Members] | None
) -> Iterator[tuple[Members, ...]]:
    """See :meth:`~esper_ray.kasmina.model.MorphogeneticModel.branching`."""
    order = tuple(slot for slot in model.execution_order if slot in slots)
    for slot in slots:
        if not model.cell(slot).contributes:
            raise ValueError(f"slot {slot} holds no seed that changes the output")
    requested = subsets(slots) if coalitions is None else coalitions
    for coalition in requested:
        if not coalition <= slots:
            raise ValueError(f"coalition {sorted(coalition)} has members that are not among {sorted(slots)}")
    if not requested:
        raise ValueError("at least one coalition is needed, got none")
    plan, blocks = forks(order, requested)
    branching = all(model.attachments[slot].branches for slot in order)
    if not branching:  # a shortcut would meet blocks that are not there: all of them run from the beginning
        everything = range(len(blocks))
        with_seed = {slot: tuple(i for i in everything if slot in blocks[i]) for slot in order}
    before = [(cell, cell.fork, cell.switch) for cell in map(model.cell, model.slot_ids)], model.copies
    model.copies = 1 if branching else len(blocks)
    try:
        for slot in model.slot_ids:
            cell = model.cell(slot)
            cell.fork = plan.get(slot) if branching else None
            cell.switch = None if branching or slot not in order else (len(blocks), with_seed[slot])
        yield blocks
    finally:
        cells, model.copies = before
        for cell, fork, switch in cells:
            cell.fork, cell.switch = fork, switch
