"""Hosts of every family: sizes, slots, causality, tracing and export."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from esper_ray.kasmina.hosts import CNN_VARIANTS, build_host
from esper_ray.kasmina.modules import count_parameters, seeded_initialisation
from esper_ray.leyline.config.host import CNNHostConfig, MLPHostConfig, TransformerHostConfig
from esper_ray.leyline.config.loading import ConfigError, build

SMALL = TransformerHostConfig(embedding=32, heads=4, layers=4, context=16, segments=2)

VARIANTS = {  # parameters on 3x32x32 with 10 classes, then channels @ size of each slot
    "cifar_baseline": (6_418, "8@32 16@16 32@8 8@16 16@8 32@4"),
    "cifar_multichannel": (6_418, "8@32 16@16 32@8 8@16 16@8 32@4"),
    "cifar_scale": (99_922, "8@32 16@16 32@8 64@4 128@2 8@16 16@8 32@4 64@2 128@1"),
    "cifar_deep_multichannel": (99_922, "8@32 16@16 32@8 64@4 128@2 8@16 16@8 32@4 64@2 128@1"),
    "cifar_impaired": (77, "1@32 2@16 4@8 1@16 2@8 4@4"),
    "cifar_minimal": (164, "2@32 4@32 8@32"),
    "cifar_postpool": (24_346, "16@32 32@16 64@8 16@16 32@8 64@4"),
    "cifar_highres": (24_346, "16@32 32@16 64@8 16@16 32@8 64@4"),
    "cifar_deep_impaired": (1_140, "2@32 4@16 8@8 16@4 32@2 2@16 4@8 8@4 16@2 32@1"),
}


def spec_of(config, input_shape, classes, seed=0):
    with seeded_initialisation(seed):
        return build_host(config, input_shape, classes)


def tokens(batch, length, vocabulary, seed=0):
    return torch.randint(0, vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed))


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slot_shapes(spec, x):
    """Shape of the features at each slot, in the order of the slots."""
    shapes = dict.fromkeys(spec.slot_modules)
    for slot, name in spec.slot_modules.items():
        spec.module.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, slot=slot: shapes.update({slot: tuple(out.shape)})
        )
    spec.module.eval()(x)
    return shapes


def test_every_variant_is_listed():
    assert CNN_VARIANTS.keys() == VARIANTS.keys()


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_have_the_size_and_the_slots_of_the_catalogue(name):
    parameters, grid = VARIANTS[name]
    spec = spec_of(CNN_VARIANTS[name], (3, 32, 32), 10)
    assert count_parameters(spec.module) == parameters
    shapes = slot_shapes(spec, noise(2, 3, 32, 32))
    assert tuple(shapes) == CNN_VARIANTS[name].available_slots()
    assert " ".join(f"{channels}@{height}" for _, channels, height, _ in shapes.values()) == grid
    assert all(height == width for _, _, height, width in shapes.values())


@pytest.mark.parametrize("channels", [1, 3])
def test_the_memory_format_changes_the_layout_and_not_the_numbers(channels):
    config = CNNHostConfig(base_channels=4, kernel_size=3)
    plain = spec_of(config, (channels, 12, 8), 5).module.eval()
    turned = spec_of(config.model_copy(update={"memory_format": "channels_last"}), (channels, 12, 8), 5).module.eval()
    layouts = []
    turned.blocks[1].register_forward_hook(
        lambda _m, _i, out: layouts.append(out.is_contiguous(memory_format=torch.channels_last))
    )
    x = noise(3, channels, 12, 8)
    torch.testing.assert_close(turned(x), plain(x), rtol=1e-5, atol=1e-6)
    if channels > 1:  # with one channel both layouts are the same bytes, and torch keeps the plain one
        assert layouts == [True]
    assert all(weight.is_contiguous() for weight in turned.state_dict().values())


def test_a_host_of_one_pixel_and_one_channel_works_without_pools():
    config = CNNHostConfig(base_channels=1, blocks=2, pools=0, kernel_size=1)
    spec = spec_of(config, (1, 1, 1), 2)
    assert slot_shapes(spec, noise(3, 1, 1, 1)) == {"r0c0": (3, 1, 1, 1), "r0c1": (3, 2, 1, 1)}


def test_the_default_transformer_has_30_044_544_parameters_counted_once_for_the_tie():
    with torch.device("meta"):
        module = build_host(TransformerHostConfig(), (256,), 50_257).module
    assert count_parameters(module) == 30_044_544
    assert count_parameters(module.blocks[0]) == 1_774_464


@pytest.mark.parametrize(("width", "layers", "vocabulary"), [(8, 2, 11), (32, 4, 65)])
def test_the_size_of_a_transformer_follows_the_closed_form(width, layers, vocabulary):
    config = TransformerHostConfig(embedding=width, heads=2, layers=layers, context=16, segments=2)
    blocks = layers * (12 * width**2 + 13 * width)
    expected = vocabulary * width + 16 * width + blocks + 2 * width
    assert count_parameters(spec_of(config, (16,), vocabulary).module) == expected


@pytest.mark.parametrize(
    ("config", "vocabulary"),
    [
        (SMALL, 65),
        (SMALL, 50_257),
        (TransformerHostConfig(context=32), 65),
        (TransformerHostConfig(context=16), 50_257),
    ],
    ids=["small-65", "small-50257", "default-65", "default-50257"],
)
def test_a_fresh_transformer_predicts_nearly_uniformly(config, vocabulary):
    module = spec_of(config, (16,), vocabulary).module.eval()
    x = tokens(4, 17, vocabulary)
    with torch.no_grad():
        loss = cross_entropy(module(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten()).item()
    assert loss == pytest.approx(math.log(vocabulary), rel=0.05)


def test_initial_weights_are_those_of_gpt_2():
    """Projections into the residual stream of 6 layers have deviation 0.02 / sqrt(12) = 0.0057735."""
    module = spec_of(TransformerHostConfig(), (8,), 500).module
    for weight in (module.token.weight, module.position.weight, module.blocks[3].attention.qkv.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.02)
    for weight in (module.blocks[3].attention.project.weight, module.blocks[5].mlp[2].weight):
        assert weight.std().item() == pytest.approx(0.0057735, rel=0.02)
    assert all((p == 0).all() for name, p in module.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("changed", [0, 3, 7])
def test_no_token_depends_on_a_later_one(changed):
    module = spec_of(SMALL, (8,), 20).module.eval()
    first = tokens(2, 8, 20)
    second = first.clone()
    second[:, changed] = (second[:, changed] + 1) % 20
    before, after = module(first), module(second)
    torch.testing.assert_close(after[:, :changed], before[:, :changed], rtol=0, atol=0)
    assert ((after - before)[:, changed:].abs().amax(dim=(0, 2)) > 1e-6).all()


def test_attention_equals_the_explicit_softmax():
    module = spec_of(SMALL, (6,), 20).module.eval().blocks[0].attention
    h = noise(2, 6, 32)
    queries, keys, values = (part.view(2, 6, 4, 8) for part in module.qkv(h).split(32, dim=-1))
    mixed = torch.zeros(2, 6, 4, 8)
    for head in range(4):
        for now in range(6):
            past = slice(0, now + 1)
            scores = (keys[:, past, head] * queries[:, now, None, head]).sum(-1) / math.sqrt(8)
            mixed[:, now, head] = (scores.softmax(dim=-1)[..., None] * values[:, past, head]).sum(1)
    torch.testing.assert_close(module(h), module.project(mixed.flatten(2)), rtol=1e-5, atol=1e-6)


def test_the_slots_of_a_transformer_are_at_the_ends_of_its_segments():
    spec = spec_of(SMALL, (16,), 20)
    assert dict(spec.slot_modules) == {"r0c0": "blocks.1", "r0c1": "blocks.3"}
    assert tuple(spec.slot_modules) == SMALL.available_slots()
    assert slot_shapes(spec, tokens(3, 5, 20)) == {"r0c0": (3, 5, 32), "r0c1": (3, 5, 32)}


def test_a_sequence_longer_than_the_context_is_refused_with_both_numbers():
    module = spec_of(SMALL, (16,), 20).module
    with pytest.raises(ValueError, match=r"\b17\b.*\b16\b"):
        module(tokens(1, 17, 20))
    with pytest.raises(ValueError, match=r"\b17\b.*\b16\b"):
        build_host(SMALL, (17,), 20)


def test_an_mlp_flattens_its_input_and_adds_residual_branches():
    """Stem 6*4+4, block 2*4 + (4*8+8) + (8*4+4), norm 2*4, head 4*3+3."""
    config = MLPHostConfig(width=4, blocks=2, expansion=2)
    spec = spec_of(config, (1, 2, 3), 3)
    assert count_parameters(spec.module) == 28 + 2 * 84 + 8 + 15
    x = noise(5, 1, 2, 3)
    assert slot_shapes(spec, x) == {"r0c0": (5, 4), "r0c1": (5, 4)}
    assert tuple(spec.slot_modules) == config.available_slots()
    module = spec.module
    with torch.no_grad():
        for block in module.blocks:
            for p in block.parameters():
                p.zero_()
    expected = module.head(module.norm(x.reshape(5, 6) @ module.stem.weight.T + module.stem.bias))
    torch.testing.assert_close(module(x), expected)


EXAMPLES = {
    "cnn": (CNNHostConfig(), (1, 8, 8), noise(2, 1, 8, 8)),
    "mlp": (MLPHostConfig(), (1, 8, 8), noise(2, 1, 8, 8)),
    "transformer": (SMALL, (16,), tokens(2, 9, 10)),
}


@pytest.mark.parametrize("family", EXAMPLES)
@pytest.mark.parametrize("how", ["fx", pytest.param("export", marks=pytest.mark.slow)])
def test_hosts_can_be_traced_and_exported(family, how):
    config, input_shape, x = EXAMPLES[family]
    module = spec_of(config, input_shape, 10).module.eval()
    shifted = torch.roll(x, 1, dims=-1)
    plain = torch.fx.symbolic_trace(module) if how == "fx" else torch.export.export(module, (x,)).module()
    torch.testing.assert_close(plain(shifted), module(shifted))


@pytest.mark.parametrize(
    ("config", "input_shape", "message"),
    [
        (CNNHostConfig(), (64,), r"cnn host needs images \(C, H, W\).*\(64,\)"),
        (CNNHostConfig(blocks=3, pools=3), (1, 8, 7), r"3 pools.*8x7"),
        (SMALL, (1, 8, 8), r"transformer host needs token sequences \(T,\).*\(1, 8, 8\)"),
    ],
)
def test_input_of_the_wrong_shape_for_a_family_is_refused(config, input_shape, message):
    with pytest.raises(ValueError, match=message):
        build_host(config, input_shape, 10)


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ({"blocks": 1}, "host.blocks: "),
        ({"family": "mlp", "widht": 3}, "unknown key 'host.widht'; did you mean 'host.width'?"),
        ({"family": "transformer", "base_channels": 2}, "unknown key 'host.base_channels' (known here: family, embedd"),
        ({"family": "transformer", "heads": 5}, "host: embedding (384) must be divisible by heads (5)"),
        ({"family": "transformer", "layers": 5}, "host: layers (5) must be divisible by segments (3)"),
        (
            {"family": "mpl"},
            "host.family: unknown host family 'mpl'; did you mean 'mlp'? (known: cnn, transformer, mlp, own)",
        ),
        ({"family": 3}, "host.family: unknown host family '3' (known: cnn, transformer, mlp, own) (got 3)"),
        (5, "host: "),
    ],
)
def test_problems_of_a_host_are_reported_with_the_configuration_key(host, message):
    with pytest.raises(ConfigError) as caught:
        build({"host": host})
    assert str(caught.value).startswith(message)
