"""Batch normalisations with a forward pass of their own, such as those of timm with an activation."""

import copy

import pytest
import torch
from kasmina_builders import named
from span_builders import awaken, lead_to, on_spans, train_steps
from torch import nn
from torch.nn.functional import batch_norm

from esper_ray.kasmina import GrowingOptimizer, MorphogeneticModel, SpanError, find_spans
from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.leyline.stages import Stage

pytestmark = pytest.mark.filterwarnings("ignore:incubation clips the gradient")
X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class NormAct(nn.BatchNorm2d):
    """A batch normalisation that drops and activates, written as in timm."""

    def __init__(self, width, drop=None, act=None, change=None, **options):
        super().__init__(width, **options)
        self.drop, self.act = drop or nn.Identity(), act or nn.ReLU(inplace=True)
        self.change = change

    def forward(self, x):
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        own = self.training or self.running_mean is None
        tensors = (self.running_mean, self.running_var, self.weight, self.bias)
        x = self.act(self.drop(batch_norm(x, *tensors, own, self.momentum, self.eps)))
        return x if self.change is None else self.change(self, x)


def host_with(norm):
    with seeded_initialisation(0):
        return named(
            a=nn.Conv2d(3, 4, 3, padding=1),
            norm=norm,
            b=nn.Conv2d(4, 6, 3),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            c=nn.Linear(6, 2),
        )


def grown(norm):
    """A model with a committed seed of three channels whose statistics and weights have moved."""
    model = on_spans(host_with(norm), {"r0c0": "a -> b"}, X)
    optimizer = GrowingOptimizer(model, torch.optim.SGD, lr=0.1)
    train_steps(model, optimizer, X, 2)
    lead_to(model, "r0c0", Stage.FOSSILIZED, channels=3)
    awaken(model, "r0c0")
    train_steps(model, optimizer, X, 2)
    return model


NORMS = {
    "affine": lambda: NormAct(4),
    "not affine": lambda: NormAct(4, affine=False),
    "without statistics": lambda: NormAct(4, track_running_stats=False),
}


def test_a_norm_with_an_activation_is_one_step():
    (span, _) = find_spans(host_with(NormAct(4)), X)
    assert (span.place, span.between) == ("a -> b", ("norm (NormAct)",))
    assert span.parameters_per_channel == 27 + 1 + 2 + 54


def test_values_of_a_folded_norm_by_hand():
    host = named(a=nn.Conv2d(1, 1, 1), norm=NormAct(1), b=nn.Conv2d(1, 1, 1))
    model = on_spans(host, {"r0c0": "a -> b"}, torch.ones(2, 1, 1, 2))
    lead_to(model, "r0c0", Stage.FOSSILIZED, channels=1)
    seed = model.cell("r0c0").seed
    norms = [host.norm, seed.between.layers["step0"]]
    for norm, values in zip(norms, [(1.0, 4.0, 3.0, 0.5), (-1.0, 9.0, 6.0, -2.0)], strict=True):
        norm.eps = 0.0
        tensors = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        for tensor, value in zip(tensors, values, strict=True):
            tensor.data.fill_(value)
    for layer, (weight, bias) in ((host.a, (2.0, 1.0)), (seed.producer, (1.0, 3.0)), (host.b, (10.0, 7.0))):
        layer.weight.data.fill_(weight)
        layer.bias.data.fill_(bias)
    seed.consumer.weight.data.fill_(100.0)
    model.eval()
    # host: relu(3 * (2 x + 1 - 1) / 2 + 0.5), seed: relu(6 * (x + 3 + 1) / 3 - 2); x = 1: 3.5 and 8, x = -2: 0 and 2
    x = torch.tensor([1.0, -2.0]).reshape(1, 1, 1, 2)
    assert model(x).flatten().tolist() == [7 + 35 + 800, 7 + 0 + 200]
    assert model.fold("r0c0")
    assert model(x).flatten().tolist() == [842.0, 207.0]
    assert host.norm.running_mean.tolist() == [1.0, -1.0]
    assert host.norm.running_var.tolist() == [4.0, 9.0]
    assert host.norm.weight.tolist() == [3.0, 6.0]
    assert host.norm.bias.tolist() == [0.5, -2.0]
    assert host.norm.num_features == 2


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_folded_norm_computes_what_it_did_in_both_modes(norm, training):
    model = grown(NORMS[norm]()).train(training)
    folded = copy.deepcopy(model)
    assert folded.fold("r0c0")
    assert folded.host.norm.num_features == 7
    expected, actual = model(X), folded(X)
    torch.testing.assert_close(actual, expected)
    seed = model.cell("r0c0").seed.between.layers["step0"]
    for name, buffer in folded.host.norm.named_buffers():
        if buffer.dim():
            joined = torch.cat([getattr(model.host.norm, name), getattr(seed, name)])
            torch.testing.assert_close(buffer, joined)
    for net in (model, folded):
        net.zero_grad()
    expected.square().mean().backward()
    actual.square().mean().backward()
    torch.testing.assert_close(folded.host.a.weight.grad[:4], model.host.a.weight.grad)
    torch.testing.assert_close(folded.host.a.weight.grad[4:], model.cell("r0c0").seed.producer.weight.grad)


def test_new_channels_have_statistics_of_their_own():
    model = grown(NormAct(4))
    seed = model.cell("r0c0").seed.between.layers["step0"]
    assert seed.running_mean.shape == (3,)
    assert seed.running_mean.abs().max() > 0
    assert seed.num_batches_tracked.item() == 2


class Centred(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) - x.mean(1, keepdim=True)


def mixing_in_training(norm, x):
    return x - 0.1 * x.mean(1, keepdim=True) if norm.training else x


def scaled_in_training(norm, x):
    return x / norm.num_features if norm.training else x


class Buffered(NormAct):
    def __init__(self, width):
        super().__init__(width)
        self.register_buffer("scale", torch.ones(width))


def fails_in_training(norm, x):
    if norm.training:
        raise ValueError("only with labels")
    return x


@pytest.mark.parametrize(
    ("norm", "reason"),
    [
        (lambda: Centred(4), r"norm \(Centred\) does not treat each channel alike and on its own in evaluation mode"),
        (lambda: NormAct(4, change=mixing_in_training), "does not treat each channel .* in training mode"),
        (lambda: NormAct(4, change=scaled_in_training), "does not treat each channel .* in training mode"),
        (lambda: NormAct(4, drop=nn.Dropout(0.5)), "does not treat each channel .* in training mode"),
        (lambda: NormAct(4, act=nn.PReLU()), "has parameters or buffers besides those of a batch normalisation"),
        (lambda: Buffered(4), "has the tensor scale besides those of a batch normalisation"),
        (lambda: NormAct(4, change=fails_in_training), "fails in training mode on other channels: only with labels"),
    ],
    ids=["centred", "mixing", "scaled", "dropout", "slope", "buffer", "failure"],
)
def test_a_norm_that_is_not_proved_is_named(norm, reason):
    with pytest.raises(SpanError, match=reason):
        MorphogeneticModel.wrap(host_with(norm()), {"r0c0": "a -> b"}, X)


def test_a_slot_inside_a_norm_of_a_span_is_refused():
    with pytest.raises(SpanError, match=r"slot r0c1 on 'norm.act' sits inside the span of slot r0c0"):
        MorphogeneticModel.wrap(host_with(NormAct(4)), {"r0c0": "a -> b", "r0c1": "norm.act"}, X)


def test_the_search_leaves_the_statistics_of_a_norm_alone():
    host = host_with(NormAct(4)).train()
    before = {name: value.clone() for name, value in host.state_dict().items()}
    random = torch.get_rng_state()
    find_spans(host, X)
    assert all(torch.equal(value, before[name]) for name, value in host.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
