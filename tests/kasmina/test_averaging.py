"""Moving averages of a growing network."""

import copy

import pytest
import torch
from kasmina_builders import WORTHY, germinate, grow, images, make_model, make_organism, named, order, train, wake
from span_builders import awaken, lead_to, on_spans, train_steps
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from esper_ray.kasmina import GrowingOptimizer
from esper_ray.kasmina.averaging import AveragedGrowth
from esper_ray.kasmina.lifecycle.reducer import Fossilize, Prune
from esper_ray.leyline.stages import Stage


def averaged(model, decay=0.5):
    return AveragedGrowth(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


def test_an_average_over_a_life_equals_one_computed_by_name():
    organism = make_organism()
    average = averaged(organism.model)
    expected = {}
    for act in (
        lambda: None,
        lambda: grow(organism, "r0c0", Stage.HOLDING),
        lambda: grow(organism, "r1c0", Stage.BLENDING, "norm"),
        lambda: order(organism, "r0c0", Fossilize()),
        lambda: order(organism, "r1c0", Prune(0)),
        lambda: germinate(organism, "r0c1", "depthwise"),
        lambda: None,
    ):
        act()
        train(organism, 1)
        average.update_parameters(organism.model)
        present = {name: p.detach().clone() for name, p in organism.model.named_parameters()}
        expected = {name: expected[name].lerp(p, 0.5) if name in expected else p for name, p in present.items()}
        actual = dict(average.module.named_parameters())
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(actual[name].detach(), value)
        assert average.module.growth.record() == organism.model.growth.record()
    assert average.module.committed_slots == {"r0c0"}
    assert not average.module.cell("r1c0").pinned


def test_the_average_of_a_blended_seed_changes_the_output():
    organism = make_organism()
    average = averaged(organism.model)
    average.update_parameters(organism.model)
    grow(organism, "r0c0", Stage.HOLDING)
    wake(organism.model.cell("r0c0").seed)
    average.update_parameters(organism.model)
    x = images(3)
    assert torch.equal(average.eval()(x), organism.model.eval()(x))
    assert not torch.equal(average(x), average.module.host(x)) or average.module.cell("r0c0").contributes


def test_a_state_of_an_average_loads_into_a_fresh_one():
    organism = make_organism()
    average = averaged(organism.model)
    grow(organism, "r0c0", Stage.HOLDING)
    average.update_parameters(organism.model)
    fresh = averaged(make_model())
    fresh.load_state_dict(average.state_dict())
    assert torch.equal(fresh.eval()(images(3)), average.eval()(images(3)))


def test_a_module_with_other_networks_is_refused():
    model = make_model()
    with pytest.raises(ValueError, match=r"the average has 1 growing networks .* the model 2 with"):
        averaged(model).update_parameters(nn.ModuleList([model, copy.deepcopy(model)]))


class TestFolds:
    def widened(self, decay=0.5):
        """A model with a committed seed on its first span, its optimizer, and its average, which has followed it."""
        host = named(a=nn.Linear(5, 4), act=nn.Tanh(), b=nn.Linear(4, 4), deep=nn.Tanh(), c=nn.Linear(4, 2))
        x = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
        model = on_spans(host, {"r0c0": "a -> b", "r0c1": "b -> c"}, x)
        optimizer = GrowingOptimizer(model, torch.optim.SGD, lr=0.05)
        average = averaged(model, decay)
        lead_to(model, "r0c0", Stage.FOSSILIZED, channels=3)
        awaken(model, "r0c0")
        lead_to(model, "r0c1", Stage.HOLDING, channels=2)
        return model, optimizer, average, x

    def test_an_average_folds_its_own_weights(self):
        model, optimizer, average, x = self.widened()
        for _ in range(3):
            train_steps(model, optimizer, x)
            average.update_parameters(model)
        before = average.eval()(x)
        model.fold("r0c0")
        average.module.growth.follow(model.growth)
        average.module.refresh_places()
        torch.testing.assert_close(average(x), before)
        assert average.module.host.a.out_features == 7
        train_steps(model, optimizer, x)
        average.update_parameters(model)
        assert model.fossilize("r0c1", WORTHY)
        average.update_parameters(model)
        assert model.fold("r0c1")
        average.update_parameters(model)
        shapes = {name: value.shape for name, value in model.state_dict().items() if name.startswith("host")}
        assert {name: average.module.state_dict()[name].shape for name in shapes} == shapes

    def test_a_fold_of_a_seed_that_the_average_never_saw_is_refused(self):
        model, _, average, _ = self.widened()
        model.fold("r0c0")
        with pytest.raises(ValueError, match="slot r0c0: 3 channels were folded there and 0 here"):
            average.update_parameters(model)
