"""Digits, and organisms grown on them."""

import pytest
import torch

from esper_ray.kasmina.lifecycle import Germinate
from esper_ray.leyline.actions import Blueprint
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

    def make(seed=0, blueprint=Blueprint.CONV_LIGHT, **seeds):
        organism = build_organism(config, data, CPU, seed)
        generator = torch.Generator().manual_seed(seed)
        for slot, (stage, alpha) in seeds.items():
            assert organism.execute(slot, Germinate(organism.next_seed_id(slot), blueprint)).success
            cell = organism.model.cell(slot)
            cell.stage = stage
            cell.alpha.fill_(alpha)
            if stage in AMPLIFIED:
                with torch.no_grad():
                    cell.seed.scale.copy_(4.0 * torch.randn(cell.seed.scale.shape, generator=generator))
            assert stage is not Stage.FOSSILIZED or alpha > 0
        return organism

    return make
