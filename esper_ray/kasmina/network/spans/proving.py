"""Proof that spans can be widened.

Every span is widened by random channels in two ways: by a seed beside the host, and by truly wider layers of a copy.
Both must compute the same, at the output of each consumer and of the host. The example comes as it is, and once more
with noise, more examples and, where the host allows it, another size.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.kasmina.network.passes.rows import same_rows
from esper_ray.kasmina.network.places.building import shared_copy
from esper_ray.kasmina.network.places.outputs import tensors_in
from esper_ray.kasmina.network.spans.folding import Layers, Transaction
from esper_ray.kasmina.network.spans.regions import ARROW, Region
from esper_ray.kasmina.network.spans.widening import Widening

PROOF_TOLERANCE, OUTPUT_TOLERANCE = 2e-3, 5e-2
"""Greatest differences of a wider copy: at consumers and at the output of the host.

They are shares of the largest value. Deep networks amplify rounding, random ones above all. What mixes channels differs
by far more at the consumer, and what reads the channels elsewhere by more at the output.
"""

ProofPass = Callable[[nn.Module], Any]
InputChange = Callable[[Tensor], Tensor]


def disproved(host: nn.Module, found: Sequence[Region], run: ProofPass) -> dict[str, str]:
    """Reasons why widening is wrong, by producer: a host that is truly wider computes something else.

    Spans that do not touch are tried together. Where that fails each is tried alone: many wide spans of a deep network
    may amplify rounding.
    """
    changes = [_same, *_allowed(host, run)] if found else []
    doubtful = [region for part in _apart(found) if not _is_proved(host, part, run, changes) for region in part]
    return {
        region.producer.name: (
            f"{region.producer.name}{ARROW}{region.consumer.name}: a wider copy of the host computes something else "
            "than the host with a seed"
        )
        for region in doubtful
        if not _is_proved(host, [region], run, changes)
    }


def _apart(found: Sequence[Region]) -> list[list[Region]]:
    """Parts in which no span begins where another ends."""
    parts: list[list[Region]] = []
    for region in found:
        ends = {region.producer.name, region.consumer.name}
        for part in parts:
            if not ends & {name for other in part for name in (other.producer.name, other.consumer.name)}:
                part.append(region)
                break
        else:
            parts.append([region])
    return parts


# Other inputs


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _noisy(tensor: Tensor) -> Tensor:
    """``tensor`` with one more example, and with noise if it consists of real numbers."""
    more = torch.cat([tensor, tensor[:1]]) if tensor.dim() else tensor
    if not more.is_floating_point():
        return more
    generator = torch.Generator(more.device).manual_seed(0)
    return more + torch.randn(more.shape, generator=generator, device=more.device, dtype=torch.float32).to(more.dtype)


def _smaller(tensor: Tensor) -> Tensor:
    """As :func:`_noisy`, of half of the last positions of images and signals."""
    return _noisy(tensor[..., : -(-tensor.shape[-1] // 2)] if tensor.dim() > 2 else tensor)


def _shorter(tensor: Tensor) -> Tensor:
    """As :func:`_noisy`, of half of the tokens of sequences."""
    return _noisy(tensor[:, : -(-tensor.shape[1] // 2)] if tensor.dim() > 1 else tensor)


def _allowed(host: nn.Module, run: ProofPass) -> list[InputChange]:
    """The first other input on which ``host`` runs, with a finite output."""
    for change in (_smaller, _shorter, _noisy):
        with _changed_input(host, change):
            try:
                outputs = tensors_in(run(host))
            except Exception:  # the code of a host can raise anything on a size that it does not allow
                continue
        if all(bool(output.isfinite().all()) for output in outputs if output.is_floating_point()):
            return [change]
    return []


@contextmanager
def _changed_input(host: nn.Module, change: InputChange) -> Iterator[None]:
    """Context in which ``host`` reads other tensors."""

    def changed(leaf: Any) -> Any:
        return change(leaf) if isinstance(leaf, Tensor) else leaf

    def hook(_module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return tree_map(changed, args), tree_map(changed, kwargs)

    handle = host.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


# Both ways


def _is_proved(host: nn.Module, found: Sequence[Region], run: ProofPass, changes: Iterable[InputChange]) -> bool:
    with seeded_initialisation(0):
        seeds = {region.producer.name: Widening(region, _more(region)) for region in found}
    for seed, region in zip(seeds.values(), found, strict=True):
        assert region.producer.module is not None
        weight = region.producer.module._parameters["weight"]
        seed.to(weight).eval()
    try:
        twin = _wider(host, found, copy.deepcopy(seeds))
        return all(_agree_on(host, twin, found, seeds, run, change) for change in changes)
    except Exception:  # the code of a host can raise anything
        return False


def _more(region: Region) -> int:
    """Channels that make a span wider by half: a scale that follows from its width changes by a lot then."""
    return region.blocks * max(1, region.channels // (2 * region.blocks))


def _wider(host: nn.Module, found: Sequence[Region], seeds: Mapping[str, Widening]) -> nn.Module:
    """A copy of ``host`` whose layers have the channels of ``seeds``."""
    twin = shared_copy(host)
    for region in found:
        layers = Layers(twin.get_submodule, [(other, seeds[other.producer.name]) for other in found])
        seed = seeds[region.producer.name]
        Transaction().widen(layers, region, seed, seed.channels)
    return twin


def _agree_on(
    host: nn.Module,
    twin: nn.Module,
    found: Sequence[Region],
    seeds: Mapping[str, Widening],
    run: ProofPass,
    change: InputChange,
) -> bool:
    """Whether both compute the same on the changed input."""
    with _changed_input(host, change), _with_seeds(host, found, seeds) as beside:
        living = run(host)
    with _changed_input(twin, change), _listening(twin, found) as inside:
        folded = run(twin)
    return _agree(living, folded, OUTPUT_TOLERANCE) and _agree(beside, inside, PROOF_TOLERANCE)


def _agree(first: Any, second: Any, tolerance: float) -> bool:
    """Whether real numbers in two outputs differ by less than a share of the largest."""
    ones, others = tensors_in(first), tensors_in(second)
    pairs = [(one, other) for one, other in zip(ones, others, strict=False) if one.is_floating_point()]
    return len(ones) == len(others) and bool(pairs) and all(_close(*pair, tolerance) for pair in pairs)


def _close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    limit = tolerance * one.abs().max() + 1e-9
    return same_rows(other, one) or (one.shape == other.shape and bool((one - other).abs().max() <= limit))


@contextmanager
def _with_seeds(host: nn.Module, found: Iterable[Region], seeds: Mapping[str, Widening]) -> Iterator[dict[str, Tensor]]:
    """Context of a host with seeds at full amplitude: what each consumer yields with them."""
    handles, sources, yielded = [], dict[str, Tensor](), dict[str, Tensor]()

    def keep(name: str) -> Any:
        return lambda _module, args: sources.__setitem__(name, args[0])

    def add(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            yielded[name] = output + seeds[name](sources.pop(name))
            return yielded[name].clone()

        return hook

    for region in found:
        name = region.producer.name
        handles.append(host.get_submodule(name).register_forward_pre_hook(keep(name)))
        handles.append(host.get_submodule(region.consumer.name).register_forward_hook(add(name)))
    with _removed_afterwards(handles):
        yield yielded


@contextmanager
def _listening(twin: nn.Module, found: Iterable[Region]) -> Iterator[dict[str, Tensor]]:
    """Context of a wider host: what each consumer yields."""
    yielded: dict[str, Tensor] = {}

    def listen(name: str) -> Any:
        return lambda _module, _args, output: yielded.__setitem__(name, output.clone())

    handles = [
        twin.get_submodule(region.consumer.name).register_forward_hook(listen(region.producer.name)) for region in found
    ]
    with _removed_afterwards(handles):
        yield yielded


@contextmanager
def _removed_afterwards(handles: Iterable[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
