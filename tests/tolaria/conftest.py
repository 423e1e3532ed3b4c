"""Digits, and organisms grown on them."""

from dataclasses import replace

import pytest
import torch

from esper_ray.kasmina.alpha import AlphaController
from esper_ray.leyline.loading import build, read_preset
from esper_ray.leyline.stages import AMPLIFIED, Stage
from esper_ray.tolaria.assembly import build_organism
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

    Stages are set by hand, past all gates. Amplified seeds get random output scales, so that they
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
