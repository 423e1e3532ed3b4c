"""The growing optimizer with schedulers, scalers, state dicts, copies, closures and options by parameter."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.network.records import HOST_GROUP
from esper_ray.kasmina.optimizer import GrowingOptimizer

HOST = {"lr": 0.5, "momentum": 0.5, "weight_decay": 0.1}
SEEDS = {"lr": 0.25, "weight_decay": 0.0}


class Layers(nn.Module):
    """Two layers with biases."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, h):
        return self.second(torch.relu(self.first(h)))


def layered(optimizer=torch.optim.AdamW, **options):
    torch.manual_seed(0)
    model = MorphogeneticModel.wrap(Layers(), {"r0c0": "first"}, torch.zeros(2, 4))
    return model, GrowingOptimizer(model, optimizer, **{"lr": 0.01, **options})


def step(optimizer, gradients):
    optimizer.zero_grad()
    for parameter, gradient in gradients.items():
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step()


def life(model, optimizer, scheduler, epochs, born=3):
    """Learning rates by group of each epoch; a seed is born in the epoch ``born``."""
    rates = []
    for epoch in range(epochs):
        if epoch == born:
            model.germinate("r0c0", "norm", style="linear_add")
        rates.append({group["name"]: group["lr"] for group in optimizer.live_groups})
        step(optimizer, dict.fromkeys(optimizer.parameters(), 1.0))
        scheduler.step()
    return rates


SCHEDULERS = {
    "step": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "multi step": lambda o: lr_scheduler.MultiStepLR(o, [2, 5], 0.1),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "linear": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=6),
    "constant": lambda o: lr_scheduler.ConstantLR(o, 0.1, total_iters=4),
    "polynomial": lambda o: lr_scheduler.PolynomialLR(o, 10, 2.0),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.8),
    "sequence": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(o, 7)], [3]
    ),
    "chain": lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.StepLR(o, 3), lr_scheduler.ExponentialLR(o, 0.9)]),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0, step_size_up=3, cycle_momentum=False),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=12),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")  # SequentialLR itself, up to torch 2.8
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_newborn_seed_enters_at_the_rate_of_the_schedule(name):
    """The rates are those of an ordinary optimizer with both groups from the beginning."""
    model, optimizer = layered(torch.optim.SGD, seeds=SEEDS, **HOST)
    rates = life(model, optimizer, SCHEDULERS[name](optimizer), 9)
    groups = [{"params": [nn.Parameter(torch.ones(1))]}, {"params": [nn.Parameter(torch.ones(1))], **SEEDS}]
    plain = torch.optim.SGD(groups, **HOST)
    scheduler = SCHEDULERS[name](plain)
    for epoch, found in enumerate(rates):
        expected = [group["lr"] for group in plain.param_groups]
        assert found[HOST_GROUP] == pytest.approx(expected[0], rel=1e-12)
        assert ("r0c0" in found) == (epoch >= 3)
        if "r0c0" in found:
            assert found["r0c0"] == pytest.approx(expected[1], rel=1e-12)
        plain.step()
        scheduler.step()


def test_a_plateau_lowers_the_rates_of_host_and_seed():
    model, optimizer = layered(torch.optim.SGD, seeds=SEEDS, **HOST)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.1)
    model.germinate("r0c0", "norm", style="linear_add")
    scheduler.step(1.0)
    scheduler.step(1.0)
    assert [group["lr"] for group in optimizer.live_groups] == pytest.approx([0.05, 0.025])


def no_decay(name, parameter):
    return {"weight_decay": 0.0} if parameter.ndim < 2 else {}


def test_groups_by_a_function_hold_for_host_and_seeds():
    model, optimizer = layered(groups=no_decay, weight_decay=0.1, seeds={"lr": 0.005})
    model.germinate("r0c0", "norm")
    found = {}
    for group in optimizer.live_groups:
        for parameter in group["params"]:
            found[parameter] = (group["name"], group["lr"], group["weight_decay"])
    named = {name: found[parameter] for name, parameter in model.named_parameters()}
    assert named["host.first.weight"] == ("host", 0.01, 0.1)
    assert named["host.first.bias"] == ("host", 0.01, 0.0)
    assert {value for name, value in named.items() if name.startswith("cells")} == {("r0c0", 0.005, 0.0)}
    assert optimizer.group_names == ["host", "r0c0"]
    assert len(optimizer.group("host")) == 4


def test_names_given_to_the_function_are_those_of_the_host_and_of_the_slot():
    seen = []
    model, _ = layered(groups=lambda name, parameter: seen.append(name) or {})
    model.germinate("r0c0", "norm")
    assert {"first.weight", "second.bias", "r0c0.seed.scale"} <= set(seen)


def test_options_that_no_host_parameter_has_follow_the_schedule():
    rate = lambda name, parameter: {"lr": 0.02} if name.startswith("r0c0") else {}  # noqa: E731
    model, optimizer = layered(torch.optim.SGD, groups=rate)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    scheduler.step()
    model.germinate("r0c0", "norm")
    optimizer.step()
    assert [group["lr"] for group in optimizer.live_groups] == pytest.approx([0.005, 0.01])


def test_a_scheduler_that_comes_later_owns_the_rates_of_all_groups():
    rate = lambda name, parameter: {"lr": 0.02} if name.startswith("r0c0") else {}  # noqa: E731
    model, optimizer = layered(torch.optim.SGD, groups=rate)
    model.germinate("r0c0", "norm")
    scheduler = lr_scheduler.LambdaLR(optimizer, [lambda epoch: 0.5] * len(optimizer.param_groups))
    scheduler.lr_lambdas[-1] = lambda epoch: 0.25
    optimizer.step()
    scheduler.step()
    optimizer.step()
    assert [group["lr"] for group in optimizer.live_groups] == pytest.approx([0.005, 0.005])


def test_matrices_may_have_another_optimizer():
    chosen = lambda name, parameter: {} if parameter.ndim < 2 else {"optimizer": torch.optim.SGD, "lr": 1.0}  # noqa: E731
    model, optimizer = layered(groups=chosen)
    matrix, bias = model.host.first.weight, model.host.first.bias
    before = matrix.detach().clone(), bias.detach().clone()
    step(optimizer, {matrix: 0.5, bias: 0.5})
    assert torch.allclose(matrix, before[0] - 0.5)
    assert torch.allclose(bias, before[1] - 0.01 * (1 + 0.01 * before[1]), atol=1e-6)
    assert optimizer.parameter_state(matrix).get("exp_avg") is None
    assert "exp_avg" in optimizer.parameter_state(bias)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": lambda name, parameter: {"decay": 0.1}}, "AdamW has no option 'decay'; it has amsgrad, betas"),
        ({"seeds": {"momentum": 0.1}}, "AdamW has no option 'momentum'"),
    ],
)
def test_an_option_that_the_optimizer_does_not_have_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        layered(**options)


def test_a_layer_that_is_unfrozen_later_is_trained_and_rests_when_frozen_again():
    host = Layers()
    host.first.requires_grad_(False)
    model = MorphogeneticModel.wrap(host, {"r0c0": "first"}, torch.zeros(2, 4))
    optimizer = GrowingOptimizer(model, lr=0.1, momentum=0.9)
    weight = model.host.first.weight
    weight.requires_grad_(True)
    step(optimizer, {weight: 1.0})
    weight.requires_grad_(False)
    kept, state = weight.detach().clone(), optimizer.parameter_state(weight)["momentum_buffer"].clone()
    model.germinate("r0c0", "norm")
    step(optimizer, {model.host.second.weight: 1.0})
    assert torch.equal(weight, kept)
    assert torch.equal(optimizer.parameter_state(weight)["momentum_buffer"], state)
    weight.requires_grad_(True)
    step(optimizer, {weight: 1.0})
    assert torch.allclose(weight, kept - 0.1 * 1.9)


def trained(model, optimizer, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(8, 4, generator=generator)

        def loss(x=x):
            return (model(x) - 1).square().mean()

        optimizer.zero_grad()
        loss().backward()
        model.incubate(loss)
        optimizer.step()
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if torch.is_tensor(tensor)}


def test_a_state_dict_goes_on_bit_for_bit_in_another_model():
    model, optimizer = layered(groups=no_decay)
    model.germinate("r0c0", "norm")
    trained(model, optimizer, 3)
    other, second = layered(groups=no_decay)
    other.load_state_dict(model.state_dict())
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    first, again = trained(model, optimizer, 3, seed=1), trained(other, second, 3, seed=1)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    other.prune("r0c0")
    assert second.group_names == ["host"]


def test_a_state_dict_is_plain_and_can_be_loaded_without_pickle(tmp_path):
    model, optimizer = layered(groups=no_decay)
    trained(model, optimizer, 1)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    optimizer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))


def test_a_state_dict_of_another_structure_is_refused_and_changes_nothing():
    model, optimizer = layered()
    model.germinate("r0c0", "norm")
    _, other = layered()
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match=r"another structure: group r0c0 \{\} has 0 parameters, 3 in the state"):
        other.load_state_dict(optimizer.state_dict())
    assert other.state_dict() == before


def test_a_copy_of_model_and_optimizer_trains_alike_and_follows_its_own_births():
    model, optimizer = layered(groups=no_decay)
    model.germinate("r0c0", "norm")
    trained(model, optimizer, 2)
    twin, second = copy.deepcopy((model, optimizer))
    assert second.model is twin
    first, again = trained(model, optimizer, 2, seed=1), trained(twin, second, 2, seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    twin.prune("r0c0")
    assert (optimizer.group_names, second.group_names) == (["host", "r0c0"], ["host"])


def test_a_closure_is_called_and_its_loss_returned():
    model, optimizer = layered(torch.optim.SGD)
    x = torch.ones(2, 4)

    def closure():
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert optimizer.step(closure) < first


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")  # LBFGS itself, up to torch 2.8
def test_lbfgs_starts_its_history_again_at_a_birth():
    model, optimizer = layered(torch.optim.LBFGS, lr=0.5, max_iter=4)
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(3)]
    model.germinate("r0c0", "norm")
    losses += [optimizer.step(closure).item() for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]


def test_a_gradient_scaler_skips_a_step_that_is_not_finite():
    model, optimizer = layered(torch.optim.SGD)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = model.host.second.weight.detach().clone()
    for value, moved in ((float("inf"), False), (1024.0, True)):
        optimizer.zero_grad()
        scaler.scale(model(torch.zeros(2, 4)).sum()).backward()
        for parameter in optimizer.parameters():
            parameter.grad = torch.full_like(parameter, value)
        scaler.step(optimizer)
        scaler.update(1024.0)
        assert (not torch.equal(model.host.second.weight, before)) == moved
    assert torch.allclose(model.host.second.weight, before - 0.01)


def test_gradients_can_be_filled_with_zeros():
    model, optimizer = layered()
    trained(model, optimizer, 1)
    optimizer.zero_grad(set_to_none=False)
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in optimizer.parameters())


def test_pickle_is_refused_with_what_to_save():
    _, optimizer = layered()
    with pytest.raises(TypeError, match=r"save model\.state_dict\(\) and optimizer\.state_dict\(\)"):
        pickle.dumps(optimizer)
