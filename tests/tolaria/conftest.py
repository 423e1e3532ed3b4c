"""Digits data, and organisms grown on it."""

from dataclasses import replace

import pytest
import torch

from esper_ray.kasmina.lifecycle.alpha import AlphaController
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.stages import AMPLIFIED, Stage
from esper_ray.tolaria.assembly import build_organism
from esper_ray.tolaria.data import TokenData, TokenSplit
from esper_ray.tolaria.tasks import load_task

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def config():
    """The digits preset, with stages that advance on command only."""
    return build(read_preset("digits"), {"growth.auto_forward": []})


@pytest.fixture(scope="session")
def data(config):
    return load_task(config.task, CPU)


@pytest.fixture
def grow(config, data):
    """A factory of organisms: ``grow(seed, r0c1=(Stage.BLENDING, 0.5), ...)``.

    Stages are set directly, without gates. Amplified seeds get random output scales, so that they
    change the output.
    """

    def make(seed=0, blueprint="conv_light", overrides=None, **seeds):
        organism = build_organism(build(config.model_dump(), overrides or {}), data, CPU, seed)
        generator = torch.Generator().manual_seed(seed)
        for slot, (stage, alpha) in seeds.items():
            organism.model.germinate(slot, blueprint)
            growth = organism.model.growth
            amplitude = AlphaController(alpha=alpha, start=alpha, target=alpha)
            growth._apply(slot, replace(growth.states[slot], stage=stage, alpha=amplitude), None)
            if stage in AMPLIFIED:
                scale = organism.model.cell(slot).seed.scale
                with torch.no_grad():
                    scale.copy_(4.0 * torch.randn(scale.shape, generator=generator))
            assert stage is not Stage.FOSSILIZED or alpha > 0
        return organism

    return make


@pytest.fixture
def grow_text():
    """A small transformer on random text, with one blended seed, and its data."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(7, (400,), generator=generator, dtype=torch.uint8)
    data = TokenData(*(TokenSplit(part, 8) for part in tokens.split([200, 100, 100])), classes=7, shifted=True)
    overrides = {
        "host": {"family": "transformer", "embedding": 8, "heads": 2, "layers": 2, "context": 8, "segments": 2},
        "growth.slots": ["r0c0", "r0c1"],
        "growth.blueprints": ["mlp_small"],
    }
    tree = {key: value for key, value in read_preset("digits").items() if key != "host"}
    organism = build_organism(build(tree, overrides), data, CPU, 0)
    model = organism.model
    model.germinate("r0c1", "mlp_small")
    growth = model.growth
    amplitude = AlphaController(alpha=0.7, start=0.7, target=0.7)
    growth._apply("r0c1", replace(growth.states["r0c1"], stage=Stage.HOLDING, alpha=amplitude), None)
    with torch.no_grad():
        model.cell("r0c1").seed.scale.fill_(3.0)
    return model, data
