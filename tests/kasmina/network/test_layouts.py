"""Layouts of features: found by runs and neighbours, said by the user, and converted for blueprints."""

import pytest
import torch
from kasmina_builders import READY, WORTHY, named, wake
from row_builders import assert_exact
from torch import nn

from esper_ray.kasmina.blueprints import blueprint_names
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.kasmina.network.places.layouts import Layout
from esper_ray.leyline.blueprints import Topology


class Images(nn.Module):
    """A block of plain functions between two turns of the dimensions."""

    def __init__(self, order, size=None):
        super().__init__()
        self.order, self.size = order, size
        self.block, self.head = Scale(), nn.Linear(6, 3)

    def forward(self, x):
        if self.size is not None and x.shape[2] != self.size:
            raise ValueError(f"images must have {self.size} rows")
        h = self.block(x.permute(self.order))
        axes = [axis for axis, source in enumerate(self.order) if source in (2, 3)]
        return self.head(h.mean(axes))


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.5))

    def forward(self, h):
        return (h * self.factor).contiguous()


class Sequences(nn.Module):
    """A block of plain functions on positions first, positions second or positions last."""

    def __init__(self, order):
        super().__init__()
        self.order, self.block, self.head = order, Scale(), nn.Linear(6, 3)

    def forward(self, x):  # (B, T, 6)
        h = self.block(x.permute(self.order))
        return self.head(h.permute([self.order.index(dim) for dim in range(3)]).mean(1))


FIRST, LAST = (0, 1, 2, 3), (0, 2, 3, 1)


def wrapped(host, example, layout=None, **slots):
    return MorphogeneticModel.wrap(host, slots or {"r0c0": "block"}, example, rules=READY, layout=layout, causal=False)


def layout_of(model, slot="r0c0"):
    return model.attachments[slot].layout


@pytest.mark.parametrize(("order", "layout"), [(FIRST, Layout.BCHW), (LAST, Layout.BHWC)])
@pytest.mark.parametrize("sides", [(8, 8), (6, 6), (4, 10)])
def test_the_layout_of_images_is_found_by_another_size(order, layout, sides):
    assert layout_of(wrapped(Images(order), torch.zeros(2, 6, *sides))) is layout


@pytest.mark.parametrize(
    ("order", "layout"), [((0, 1, 2), Layout.BTD), ((1, 0, 2), Layout.TBD), ((0, 2, 1), Layout.BCL)]
)
@pytest.mark.parametrize("length", [2, 6, 9])
def test_the_layout_of_sequences_is_found_by_another_batch_and_length(order, layout, length):
    assert layout_of(wrapped(Sequences(order), torch.zeros(2, length, 6))) is layout


def test_a_host_that_takes_positions_first_is_recognised_by_what_depends_on_what():
    class TimeFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.head = nn.LSTM(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.block(x)[0][-1])

    assert layout_of(wrapped(TimeFirst(), torch.zeros(5, 3, 6))) is Layout.TBD


def test_a_fixed_size_is_decided_by_the_next_layer():
    class Fixed(Images):
        def __init__(self):
            super().__init__(LAST)
            self.norm = nn.LayerNorm(6)

        def forward(self, x):
            if x.shape[2] != 8:
                raise ValueError("images must have 8 rows")
            return self.head(self.norm(self.block(x.permute(LAST))).mean((1, 2)))

    assert layout_of(wrapped(Fixed(), torch.zeros(2, 6, 8, 8))) is Layout.BHWC


@pytest.mark.parametrize(("order", "layout"), [(FIRST, Layout.BCHW), (LAST, Layout.BHWC)])
def test_square_images_of_fixed_size_have_as_many_rows_as_columns(order, layout):
    assert layout_of(wrapped(Images(order, size=8), torch.zeros(2, 6, 8, 8))) is layout


def test_a_layout_that_does_not_show_is_refused_until_it_is_said():
    host, example = Images(LAST, size=6), torch.zeros(2, 6, 6, 6)
    with pytest.raises(ValueError, match=r"slot r0c0 yields \(2, 6, 6, 6\), which may be BCHW or BHWC: .* layout=\{"):
        wrapped(host, example)
    assert not host.block._forward_hooks
    assert layout_of(wrapped(host, example, {"r0c0": "BHWC"})) is Layout.BHWC


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("BHCW", "unknown layout 'BHCW'"),
        ({"r0c1": "BHWC"}, "unknown slot 'r0c1'"),
        ("BTD", r"slot r0c0 yields \(2, 6, 8, 8\), layout BTD has 3 dimensions"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(layout, message):
    with pytest.raises(ValueError, match=message):
        wrapped(Images(FIRST), torch.zeros(2, 6, 8, 8), layout)


def test_channels_at_the_end_of_a_swin_transformer_are_found():
    from torchvision.models.swin_transformer import SwinTransformer

    host = SwinTransformer([4, 4], 24, [1, 1], [2, 2], [4, 4], num_classes=3)
    model = MorphogeneticModel.wrap(host, {"r0c0": "features.1"}, torch.zeros(2, 3, 64, 64))
    assert (layout_of(model), model.attachments["r0c0"].shape.channels) == (Layout.BHWC, 24)
    model.germinate("r0c0", "conv_light")
    model.advance("r0c0")
    with model.shadow(), torch.no_grad():
        assert model(torch.zeros(2, 3, 96, 96)).shape == (2, 3)


@pytest.mark.parametrize("layout", list(Layout))
def test_conversion_to_the_layout_of_blueprints_and_back_changes_nothing(layout):
    features = torch.randn([2, 3, 4, 5][: len(layout.value)])
    canonical = layout.canonical(features)
    assert torch.equal(layout.restored(canonical), features)
    assert layout.example_shape(tuple(canonical.shape[1:])) == tuple(
        size for dim, size in enumerate(features.shape) if dim != layout.batch
    )
    assert canonical.shape[1 if layout.topology is Topology.IMAGES else -1] == features.shape[layout.channel]


PAIRS = [
    (Images, FIRST, LAST, (6, 8, 8), Topology.IMAGES),
    (Sequences, (0, 1, 2), (1, 0, 2), (7, 6), Topology.SEQUENCES),
    (Sequences, (0, 1, 2), (0, 2, 1), (7, 6), Topology.SEQUENCES),
]


def blended(host, example, blueprint, style):
    """A model with an awake, blended seed."""
    model = wrapped(host, example)
    model.germinate("r0c0", blueprint, style=style, tempo=1)
    seed = model.cell("r0c0").seed
    if hasattr(seed, "scale"):
        wake(seed)
    model.advance("r0c0")
    model.advance("r0c0", WORTHY)
    model.tick()
    return model


@pytest.mark.parametrize("style", ["linear_add", "linear_multiply", "gated_gate"])
@pytest.mark.parametrize(("host", "canonical", "turned", "shape", "topology"), PAIRS)
def test_every_blueprint_computes_the_same_in_every_layout(host, canonical, turned, shape, topology, style):
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    for blueprint in blueprint_names(topology):
        outputs = []
        for order in (canonical, turned):
            with seeded_initialisation(2):
                model = blended(host(order), torch.zeros(2, *shape), blueprint, style)
            outputs.append(model.eval()(x))
        assert torch.allclose(*outputs, rtol=0, atol=1e-6), blueprint


@torch.no_grad()
@pytest.mark.parametrize(("host", "canonical", "turned", "shape", "topology"), PAIRS)
def test_coalitions_in_other_layouts_equal_single_passes(host, canonical, turned, shape, topology):
    blueprint = "conv_light" if topology is Topology.IMAGES else "attention"
    with seeded_initialisation(2):
        model = blended(host(turned), torch.zeros(2, *shape), blueprint, "linear_add")
    assert model.attachments["r0c0"].passes == "forked"
    assert_exact(model, torch.randn(4, *shape, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize(("host", "canonical", "turned", "shape", "topology"), PAIRS)
def test_a_newborn_seed_leaves_features_of_every_layout_bit_equal(host, canonical, turned, shape, topology):
    torch.manual_seed(3)
    bare, x = host(turned), torch.randn(3, *shape)
    expected = bare(x)
    model = wrapped(bare, torch.zeros(2, *shape))
    model.germinate("r0c0", "norm")
    model.advance("r0c0")
    assert torch.equal(model(x), expected)


def test_blended_features_can_be_viewed_as_the_host_does():
    class Viewing(Images):
        def forward(self, x):
            h = self.block(x.permute(LAST))
            return self.head(h.view(len(h), -1, 6).mean(1))

    model = blended(Viewing(LAST), torch.zeros(2, 6, 8, 8), "conv_light", "linear_add")
    assert model(torch.randn(3, 6, 8, 8)).shape == (3, 3)


def test_a_chain_of_convolutions_of_fixed_size_is_images_with_channels_second():
    host = named(conv=nn.Conv2d(3, 4, 3, padding=1), flat=nn.Flatten(), head=nn.Linear(64, 3))
    model = MorphogeneticModel.wrap(host, {"r0c0": "conv"}, torch.zeros(2, 3, 4, 4))
    assert layout_of(model) is Layout.BCHW
