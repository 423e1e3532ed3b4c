"""Growth in width against TINY of GroMo 0.1.0, where GroMo runs.

GroMo widens a layer whose output goes straight into a layer of the same kind, with only an activation between. Two
hosts have such a pair: the MLP 64-16-10, and a CNN of two convolutions; in the latter our arm may widen the second
convolution too, which GroMo cannot. Both arms have the same first weights, batches, AdamW, learning rate with its
cosine schedule, gradient clipping and number of epochs. Our arm is ``grown`` with the heuristic; GroMo grows to the
number of neurons whose parameters are closest to those at which our arm ended with the same seed.

GroMo's arm follows its tutorials. Before each epoch of :data:`GROWTHS`, statistics are gathered over all training
batches with the summed loss. ``compute_optimal_updates`` finds new neurons with the settings that its documentation
names for TINY, but keeps weak neurons, which its default threshold drops, so that the size is reached. A line search
over :data:`SCALES` takes the factor with the least training loss; the tutorial's factor 0 is left out, as neurons of
weight zero would never train. Then the optimizer is new. Convolutions are ``RestrictedConv2dGrowingModule``, the
default of GroMo's networks; the second has no bias, as in GroMo 0.1.0 one with a bias can grow only once.

Operations are those of convolutions and matrix products. GroMo's include its statistics and its line search, but not
its decompositions of matrices, which are not counted. Ours are those of training; ``all`` adds our measurements of
held-out examples, which GroMo's arm does not use.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from math import cos, pi
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.networks.width import grown
from benchmarks.networks.width_cases import (
    WIDTH_CASES,
    WIDTH_PAIRS,
    Case,
    accuracy,
    batches,
    digits,
    fresh,
    interval,
    loss_of,
)
from benchmarks.report import Bar
from esper_ray.kasmina.modules import count_parameters

GROWTHS = (2, 5, 8)
"""Epochs before which GroMo grows, spread over those in which our arm has its seeds born."""
SCALES = (0.1, 0.5, 1.0)
"""Factors of the line search."""


@dataclass(frozen=True)
class PeerCase:
    """A host, and the place of the layer that GroMo widens."""

    case: Case
    place: int
    """Position of the layer; its activation and the next layer follow it."""


def flat_cnn() -> nn.Module:
    """Two convolutions without a pool between them, the second without bias."""
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(32, 10))


PEER_CASES = {
    "peer_mlp": PeerCase(WIDTH_CASES["digits_mlp"], 1),
    "peer_cnn": PeerCase(Case(flat_cnn, digits, 40, 1232, 5e-3), 0),
}


def available() -> bool:
    """Whether GroMo is installed."""
    return find_spec("gromo") is not None


def growing(layer: nn.Module, activation: nn.Module, previous: nn.Module | None) -> Any:
    """GroMo's module with the weights of ``layer``."""
    from gromo.modules.conv2d_growing_module import RestrictedConv2dGrowingModule
    from gromo.modules.linear_growing_module import LinearGrowingModule

    options: dict[str, Any] = {"post_layer_function": activation, "previous_module": previous}
    options |= {"allow_growing": previous is not None, "device": torch.device("cpu")}
    module: Any
    if isinstance(layer, nn.Conv2d):
        options |= {"kernel_size": layer.kernel_size, "padding": layer.padding, "use_bias": layer.bias is not None}
        module = RestrictedConv2dGrowingModule(layer.in_channels, layer.out_channels, **options)
    else:
        assert isinstance(layer, nn.Linear)
        module = LinearGrowingModule(layer.in_features, layer.out_features, **options)
    module.layer.load_state_dict(layer.state_dict())
    return module


def converted(host: nn.Module, place: int) -> nn.Sequential:
    """The host with GroMo's modules: what comes before, the two layers, the rest."""
    assert isinstance(host, nn.Sequential)
    first = growing(host[place], host[place + 1], None)
    second = growing(host[place + 2], nn.Identity(), first)
    return nn.Sequential(host[:place], first, second, host[place + 3 :])


def missing(network: nn.Sequential, parameters: int) -> int:
    """Number of neurons that bring ``network`` closest to ``parameters``."""
    first: Any = network[1]
    second: Any = network[2]
    each: int = first.weight[0].numel() + 1 + second.weight[:, 0].numel()
    return max(0, round((parameters - count_parameters(network)) / each))


def widen(network: nn.Sequential, parts: list[tuple[Tensor, Tensor]], neurons: int) -> None:
    """One growth by TINY of at most ``neurons``."""
    first: Any = network[1]
    second: Any = network[2]
    network.eval()
    second.init_computation()
    for x, y in parts:
        network.zero_grad()
        loss = nn.functional.cross_entropy(network(x), y, reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        second.update_computation()
    second.compute_optimal_updates(maximum_added_neurons=neurons, compute_delta=False, statistical_threshold=0.0)
    second.reset_computation()
    first.store_input = False

    @torch.no_grad()
    def loss_at(scale: float) -> float:
        second.scaling_factor = scale
        total = 0.0
        for x, y in parts:
            hidden, added = first.extended_forward(network[0](x))
            output, _ = second.extended_forward(hidden, added)
            total += nn.functional.cross_entropy(network[3](output), y, reduction="sum").item()
        return total

    second.scaling_factor = min(SCALES, key=loss_at)
    second.apply_change()
    second.delete_update()


def grown_by_gromo(pair: PeerCase, seed: int, parameters: int) -> tuple[nn.Module, float]:
    """GroMo's trained network of about ``parameters``, and its floating-point operations."""
    case = pair.case
    network = converted(fresh(case, seed), pair.place)
    optimizer = torch.optim.AdamW(network.parameters(), lr=case.lr)
    with FlopCounterMode(display=False) as counter:
        for epoch in range(case.epochs):
            parts = batches(case, seed, epoch)
            left = sum(epoch <= growth for growth in GROWTHS)
            if epoch in GROWTHS and (neurons := -(-missing(network, parameters) // left)):
                widen(network, parts, neurons)
                optimizer = torch.optim.AdamW(network.parameters(), lr=case.lr)
            for group in optimizer.param_groups:
                group["lr"] = case.lr * (1.0 + cos(pi * epoch / case.epochs)) / 2.0
            network.train()
            for batch in parts:
                optimizer.zero_grad()
                loss_of(network, batch).backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
    return network, float(counter.get_total_flops())


def measured(name: str, seeds: int) -> dict[str, list[float]]:
    """Accuracies, sizes and shares of operations of both arms, seed by seed."""
    pair = PEER_CASES[name]
    test = pair.case.examples().test
    keys = ("ours_pp", "gromo_pp", "ours_parameters", "gromo_parameters", "flops_of_gromo", "all_flops_of_gromo")
    rows: dict[str, list[float]] = {key: [] for key in keys}
    for seed in range(seeds):
        with FlopCounterMode(display=False) as counter:
            session, flops = grown(pair.case, seed)
        plain = session.plain()
        peer, spent = grown_by_gromo(pair, seed, count_parameters(plain))
        sizes = count_parameters(plain), count_parameters(peer)
        shares = flops / spent, counter.get_total_flops() / spent
        for key, value in zip(keys, (accuracy(plain, test), accuracy(peer, test), *sizes, *shares), strict=True):
            rows[key].append(float(value))
    return rows


def compared(name: str, seeds: int) -> dict[str, float]:
    """Figures of one host."""
    rows = measured(name, seeds)
    center, half = interval([own - other for own, other in zip(rows["ours_pp"], rows["gromo_pp"], strict=True)])
    figures = {f"{name}_{key}": mean(values) for key, values in rows.items()}
    return figures | {f"{name}_over_gromo_pp": center, f"{name}_over_gromo_lower_pp": center - half}


def peers(seeds: int = WIDTH_PAIRS) -> tuple[dict[str, float], dict[str, Bar]]:
    """Figures against GroMo with their bars; none where it is not installed."""
    figures, bars = dict[str, float](), dict[str, Bar]()
    for name in PEER_CASES if available() else ():
        figures |= compared(name, seeds)
        bars[f"{name}_over_gromo_lower_pp"] = Bar(-0.5, at_least=True)
        bars[f"{name}_flops_of_gromo"] = Bar(0.5)
    return figures, bars
