"""Probes of whether the rows of a batch influence each other.

A pass that computes several coalitions at once puts rows with different seeds into one batch. That is exact only if
no layer mixes rows. Batch normalisation without running statistics mixes them in evaluation too, and so does any
layer that computes something over the whole batch. Equal rows do not show it, so the probes use different ones.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from esper_ray.kasmina.network.places.layouts import Layout
from esper_ray.kasmina.network.places.outputs import features_of, with_features

Passes = Literal["forked", "repeated", "separate"]
"""Ways to compute passes with and without a seed.

``forked``: in one pass whose rows fork at the slot. ``repeated``: in one pass on a repeated batch, because a shortcut
leads around the slot. ``separate``: one after another, because rows influence each other.
"""

ROW_TOLERANCE = 1e-4
"""Maximum difference of results that count as equal, as a share of the largest value."""
COARSE_TOLERANCE = 2e-2
"""The same for types and devices with few bits of mantissa (bfloat16, TF32 on CUDA)."""


def coalition_passes(
    run: Callable[[int], Any], places: Mapping[str, tuple[nn.Module, Layout]], first: Tensor, batch: int | None
) -> dict[str, Passes]:
    """Way to compute passes with and without a seed at each of ``places``.

    All are probed at once: in one pass, the rows of which fork at each place in turn. Where that does not give the
    rows of single passes, each place is probed on its own.

    Args:
        run: runs the host, in evaluation mode and without gradient, on so many copies of an example batch.
        places: submodule and layout of its features by slot, in forward order.
        first: output of the host.
        batch: rows of that batch, ``None`` if they are unknown.
    """
    singles = {slot: _changed_run(run, place) for slot, place in places.items()}
    rows = [first, *(output for output in singles.values() if isinstance(output, Tensor) and output.dim())]
    # a doubled batch of one is broadcast around shortcuts, which goes unnoticed
    forks = (batch or 1) > 1
    if forks and len(rows) == len(places) + 1 and _forks_everywhere(run, places, torch.cat(rows)):
        return dict.fromkeys(places, "forked")
    return {slot: _passes(run, places[slot], first, single, forks) for slot, single in singles.items()}


def _forks_everywhere(
    run: Callable[[int], Any], places: Mapping[str, tuple[nn.Module, Layout]], expected: Tensor
) -> bool:
    """Whether one pass gives unchanged rows, then those changed at each place."""
    with ExitStack() as changes:
        for blocks, (module, layout) in enumerate(places.values(), 1):

            def fork(h: Tensor, blocks: int = blocks) -> Tensor:
                return torch.cat([h, other_rows(h[: len(h) // blocks])])

            changes.enter_context(changed_output(module, layout, fork))
        return _agrees(run, 1, expected)


def _passes(
    run: Callable[[int], Any], place: tuple[nn.Module, Layout], first: Tensor, single: Any, forks: bool
) -> Passes:
    if not isinstance(single, Tensor) or not single.dim():
        return "separate"
    expected = torch.cat([first, single])
    if forks:
        with changed_output(*place, lambda h: torch.cat([h, other_rows(h)])):
            if _agrees(run, 1, expected):
                return "forked"
    with changed_output(*place, lambda h: torch.cat([h[: len(h) // 2], other_rows(h[len(h) // 2 :])])):
        return "repeated" if _agrees(run, 2, expected) else "separate"


def _changed_run(run: Callable[[int], Any], place: tuple[nn.Module, Layout]) -> Any:
    """Output of a pass with other features at ``place``; ``None`` if it fails."""
    try:
        with changed_output(*place, other_rows):
            return run(1)
    except Exception:  # a host can raise anything on features that it has never seen
        return None


def _agrees(run: Callable[[int], Any], copies: int, expected: Tensor) -> bool:
    try:
        return same_rows(run(copies), expected)
    except Exception:  # see above
        return False


def uses_batch_statistics(module: nn.Module) -> bool:
    """Whether a batch normalisation in ``module`` uses the statistics of its batch in evaluation too.

    A probe does not show it where the output of such a layer is still multiplied by zero.
    """
    return any(isinstance(part, _BatchNorm) and part.running_mean is None for part in module.modules())


def independent_rows(body: nn.Module, features: Tensor) -> bool:
    """Whether ``body`` treats each row of a batch on its own, by a probe.

    Args:
        features: (B, ...) rows for the probe.
    """
    if uses_batch_statistics(body):
        return False
    other = other_rows(features)
    with torch.no_grad():
        alone = torch.cat([body(features.clone()), body(other.clone())])
        return same_rows(body(torch.cat([features, other])), alone)


def other_rows(features: Tensor) -> Tensor:
    """(B, ...) rows with other values and other statistics than ``features``, without random numbers.

    Where no feature is negative, no value is either: the next layer may be a root or a logarithm.
    """
    wave = torch.arange(features.numel(), device=features.device).cos().reshape(features.shape)
    size = features.abs().mean()
    rows = 1.5 * features.flip(0) + torch.where(size > 0, size, 1.0) * wave
    return torch.where((features < 0).any() | (size == 0), rows, rows.abs()).to(features.dtype)


def same_rows(actual: Any, expected: Tensor) -> bool:
    """Whether ``actual`` is a tensor that differs from ``expected`` by rounding at most."""
    if not isinstance(actual, Tensor) or actual.shape != expected.shape:
        return False
    difference, size = (actual - expected).abs().max(), expected.abs().max()
    return bool(difference <= _tolerance(expected) * size + 1e-9)


def agreement(actual: Tensor, expected: Tensor) -> Tensor:
    """0-dim bool: whether rows of two passes differ by rounding at most.

    Rows of a host that diverged agree if the same values of them are not finite. There is no device synchronisation.
    """
    if not expected.is_floating_point():
        return (actual == expected).all()
    finite = expected.isfinite()
    difference = torch.where(finite, actual - expected, 0.0).abs().max()
    size = torch.where(finite, expected, 0.0).abs().max()
    return (actual.isfinite() == finite).all() & (difference <= _tolerance(expected) * size + 1e-9)


def _tolerance(rows: Tensor) -> float:
    coarse = rows.is_cuda or rows.dtype in (torch.bfloat16, torch.float16)
    return COARSE_TOLERANCE if coarse or torch.is_autocast_enabled(rows.device.type) else ROW_TOLERANCE


def changed_output(
    module: nn.Module, layout: Layout, change: Callable[[Tensor], Tensor]
) -> AbstractContextManager[Any]:
    """Context in which ``change`` applies to the features of ``module``.

    They are in the layout of blueprints."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        features = features_of(output)
        if features is None:
            return output
        return with_features(output, layout.restored(change(layout.canonical(features))))

    return module.register_forward_hook(hook)
