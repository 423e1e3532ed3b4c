"""Context of passes that compute many coalitions of seeds at once."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn

from esper_ray.kasmina.blueprints import is_built_in
from esper_ray.kasmina.blueprints.delta import Delta
from esper_ray.kasmina.network.attachment import evaluation_mode
from esper_ray.kasmina.network.newborn import preserved_rng
from esper_ray.kasmina.network.passes.branching import forks, subsets
from esper_ray.kasmina.network.passes.rows import Passes, independent_rows
from esper_ray.kasmina.network.passes.verification import may_mix_rows
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
    way = _way(model, order, len(blocks))
    before = [(cell, cell.fork, cell.switch) for cell in map(model.cell, model.slot_ids)]
    outer = model.copies, model.separate, model.switchable, model.unverified
    model.copies = len(blocks) if way == "repeated" else 1
    model.separate, model.switchable = blocks if way == "separate" else (), order
    model.unverified = blocks if way != "separate" and len(blocks) > 1 and may_mix_rows(model) else ()
    try:
        for slot in model.slot_ids:
            cell = model.cell(slot)
            cell.fork = plan.get(slot) if way == "forked" else None
            cell.switch = None
            if way == "repeated" and slot in order:
                cell.switch = len(blocks), tuple(i for i, coalition in enumerate(blocks) if slot in coalition)
        yield blocks
    finally:
        model.copies, model.separate, model.switchable, model.unverified = outer
        for cell, fork, switch in before:
            cell.fork, cell.switch = fork, switch


def _way(model: SlottedNetwork, order: tuple[str, ...], blocks: int) -> Passes:
    """Way to compute ``blocks`` coalitions of the seeds in ``order``.

    Where rows influence each other, every coalition has a pass of its own: rows with other seeds in the same batch
    would change its result.
    """
    ways = {model.attachments[slot].passes for slot in order}
    if blocks > 1 and ("separate" in ways or any(_mixes_rows(model, slot) for slot in model.slot_ids)):
        return "separate"
    return "forked" if ways <= {"forked"} else "repeated"


_INDEPENDENT: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Results of probes by seed module."""


def _mixes_rows(model: SlottedNetwork, slot: str) -> bool:
    """Whether the seed in ``slot`` changes the output and mixes the rows of its batch. Built-in ones do not."""
    cell, state = model.cell(slot), model.states[slot]
    seed = cell.seed
    if not cell.contributes or seed is None or state is None or is_built_in(state.blueprint):
        return False
    if seed not in _INDEPENDENT:
        body = seed.body if isinstance(seed, Delta) else seed
        form = cell.probe(2)
        probe = torch.arange(form.numel()).sin().reshape(form.shape).to(form)
        with evaluation_mode(seed), preserved_rng(cell.alpha.device):
            _INDEPENDENT[seed] = independent_rows(body, probe)
    return not _INDEPENDENT[seed]
