"""Random chains of layers with spans, and seeds on them that have an effect."""

from collections.abc import Mapping

import torch
from hypothesis import strategies as st
from kasmina_builders import READY, WORTHY
from torch import Tensor, nn

from esper_ray.kasmina import GrowingOptimizer, MorphogeneticModel
from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.leyline.stages import Stage

SIDE = 8
"""Height and width, or length, of the examples."""
ACTIVATIONS = {
    "relu": nn.ReLU,
    "relu_": lambda: nn.ReLU(inplace=True),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "none": nn.Identity,
    "dropout": lambda: nn.Dropout(0.1),
}
NORMS = {
    1: {"batch": nn.BatchNorm1d, "instance": lambda width: nn.InstanceNorm1d(width, affine=True)},
    2: {
        "batch": nn.BatchNorm2d,
        "instance": lambda width: nn.InstanceNorm2d(width, affine=True, track_running_stats=True),
        "channel groups": lambda width: nn.GroupNorm(width, width),
        "depthwise": lambda width: nn.Conv2d(width, width, 3, padding=1, groups=width),
    },
}
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d}
POOLS = {
    1: {"max": lambda: nn.MaxPool1d(2), "average": lambda: nn.AvgPool1d(2)},
    2: {"max": lambda: nn.MaxPool2d(2), "average": lambda: nn.AvgPool2d(2), "global": lambda: nn.AdaptiveAvgPool2d(2)},
}


@st.composite
def convolutional_chains(draw: st.DrawFn) -> tuple[nn.Sequential, Tensor]:
    """A chain of two to four convolutions with a linear head, and an input of six examples."""
    dims = draw(st.sampled_from([1, 2]))
    width, layers, side = 3, list[nn.Module](), SIDE
    for index in range(draw(st.integers(2, 3))):
        outputs = draw(st.sampled_from([4, 8]))
        fitting = [groups for groups in (1, 2, 4) if width % groups == 0 and outputs % groups == 0]
        options = {
            "groups": width if draw(st.booleans()) and outputs % width == 0 else draw(st.sampled_from(fitting)),
            "bias": draw(st.booleans()),
            "stride": 2 if side >= 4 and draw(st.booleans()) else 1,
            "padding": 1,
            "padding_mode": draw(st.sampled_from(["zeros", "circular"])),
        }
        if index and options["groups"] == width:  # a depthwise consumer is a step between two others
            options["groups"] = 1
        layers.append(CONVOLUTIONS[dims](width, outputs, 3, **options))
        side, width = -(-side // options["stride"]), outputs
        norm = draw(st.sampled_from(["none", *NORMS[dims]]))
        layers += [] if norm == "none" else [NORMS[dims][norm](width)]
        layers.append(ACTIVATIONS[draw(st.sampled_from(sorted(ACTIVATIONS)))]())
        pool = draw(st.sampled_from(["none", *POOLS[dims]]))
        if pool != "none" and side >= 4:
            layers.append(POOLS[dims][pool]())
            side = 2 if pool == "global" else side // 2
    layers += [nn.Flatten(), nn.Linear(width * side**dims, 5, bias=draw(st.booleans()))]
    with seeded_initialisation(draw(st.integers(0, 99))):
        for layer in layers:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        x = torch.randn(6, 3, *[SIDE] * dims)
    return nn.Sequential(*layers), x


@st.composite
def linear_chains(draw: st.DrawFn) -> tuple[nn.Sequential, Tensor]:
    """A chain of two or three linear layers over vectors or tokens, and an input of six examples."""
    tokens = draw(st.booleans())
    with seeded_initialisation(draw(st.integers(0, 99))):
        layers, width = list[nn.Module](), 5
        for _ in range(draw(st.integers(2, 3))):
            outputs = draw(st.sampled_from([3, 6]))
            layers += [nn.Linear(width, outputs, bias=draw(st.booleans()))]
            if not tokens and draw(st.booleans()):
                layers.append(nn.BatchNorm1d(outputs))
            if not tokens and draw(st.booleans()):
                layers.append(nn.PReLU(outputs))
            layers.append(ACTIVATIONS[draw(st.sampled_from(sorted(ACTIVATIONS)))]())
            width = outputs
        x = torch.randn(6, 4, 5) if tokens else torch.randn(6, 5)
    return nn.Sequential(*layers, nn.Linear(width, 5)), x


def on_spans(host: nn.Module, places: Mapping[str, object], x: Tensor, **options: object) -> MorphogeneticModel:
    """``host`` with slots on spans, under rules whose gates open at once."""
    return MorphogeneticModel.wrap(host, places, x[:2], rules=READY, **options)


def lead_to(model: MorphogeneticModel, slot: str, stage: Stage, channels: int | None = None) -> None:
    """Widen ``slot`` and lead the seed to ``stage``."""
    blueprint = {"channels": channels} if channels else {}
    assert model.germinate(slot, "widen", style="linear_add", tempo=1, **blueprint)
    for target in (Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED):
        if model.states[slot].stage is stage:
            return
        if target is Stage.FOSSILIZED:
            assert model.fossilize(slot, WORTHY)
        else:
            assert model.advance(slot, WORTHY)
        if target is Stage.BLENDING:
            model.tick()


def awaken(model: MorphogeneticModel, slot: str, seed: int = 0) -> None:
    """Random weights in the consumer's part of a seed, so that it has an effect."""
    weight = model.cell(slot).seed.consumer.weight
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)))


def train_steps(model: MorphogeneticModel, optimizer: GrowingOptimizer, x: Tensor, steps: int = 1) -> None:
    """Steps on one batch with fixed labels, in training mode."""
    model.train()

    def loss() -> Tensor:
        outputs = model(x)
        return outputs.pow(2).mean() + outputs.reshape(len(x), -1)[:, 0].sin().mean()

    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        model.incubate(loss)
        optimizer.step()
