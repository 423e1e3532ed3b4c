"""Spans that are found, and the reasons why others are not."""

import pytest
import torch
from kasmina_builders import named
from torch import nn
from torch.nn.functional import dropout, max_pool2d, relu

from esper_ray.kasmina import MorphogeneticModel, SpanError, find_spans

IMAGES = torch.zeros(2, 3, 8, 8)
VECTORS = torch.zeros(2, 5)


class Net(nn.Module):
    """A module whose forward pass is a function of itself and the input."""

    def __init__(self, run, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.run = run

    def forward(self, x):
        return self.run(self, x)


def places(model, x=IMAGES):
    return [span.place for span in find_spans(model, x)]


def refusal(model, x=IMAGES, place="a -> b"):
    with pytest.raises(SpanError) as raised:
        MorphogeneticModel.wrap(model, {"r0c0": place}, x)
    return str(raised.value)


def conv(inputs=3, outputs=4, **options):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


class TestFound:
    def test_a_span_has_shapes_and_prices(self):
        host = named(a=conv(bias=False), norm=nn.BatchNorm2d(4), act=nn.ReLU(), pool=nn.MaxPool2d(2), b=conv(4, 6))
        (span,) = find_spans(host, IMAGES)
        assert (span.producer, span.consumer, span.channels, span.step) == ("a", "b", 4, 1)
        assert span.between == ("norm (BatchNorm2d)", "act (ReLU)", "pool (MaxPool2d)")
        assert (span.input_shape, span.hidden_shape, span.output_shape) == ((3, 8, 8), (4, 8, 8), (6, 4, 4))
        assert span.parameters_per_channel == 27 + 2 + 54
        assert span.flops_per_channel == 2 * (64 * 27 + 16 * 54)

    def test_groups_give_the_step(self):
        host = named(a=conv(4, 12, groups=2), b=conv(12, 6, groups=3))
        assert find_spans(host, torch.zeros(2, 4, 8, 8))[0].step == 6

    def test_a_depthwise_producer_grows_by_its_inputs(self):
        host = named(a=conv(3, 6, groups=3), act=nn.ReLU(), b=conv(6, 4))
        assert [(span.place, span.step) for span in find_spans(host, IMAGES)] == [("a -> b", 3)]

    def test_a_depthwise_convolution_may_lie_between(self):
        host = named(a=conv(3, 6), depth=conv(6, 6, groups=6), act=nn.ReLU6(inplace=True), b=conv(6, 4))
        assert places(host) == ["a -> b"]

    def test_functions_may_lie_between(self):
        def run(net, x):
            hidden = relu(net.a(x))
            hidden = hidden * torch.sigmoid(1.7 * hidden) + 0.5
            hidden += hidden
            hidden = max_pool2d(hidden, 2).view(x.size(0), -1)
            return net.b(hidden)

        assert places(Net(run, a=conv(), b=nn.Linear(64, 2))) == ["a -> b"]

    def test_a_global_mean_may_lie_between(self):
        assert places(Net(lambda net, x: net.b(net.a(x).mean((2, 3))), a=conv(), b=nn.Linear(4, 2))) == ["a -> b"]

    def test_tokens_are_widened_in_their_last_dimension(self):
        host = named(a=nn.Linear(5, 8), act=nn.GELU(), drop=nn.Dropout(0.1), b=nn.Linear(8, 5))
        (span,) = find_spans(host, torch.zeros(2, 7, 5))
        assert (span.input_shape, span.hidden_shape) == ((7, 5), (7, 8))
        assert (span.parameters_per_channel, span.flops_per_channel) == (5 + 1 + 5, 2 * 7 * (5 + 5))

    def test_a_shared_activation_is_no_obstacle(self):
        def run(net, x):
            return net.c(net.act(net.b(net.act(net.a(x)))))

        parts = {"a": conv(), "b": conv(4, 5), "c": conv(5, 2), "act": nn.ReLU(inplace=True)}
        assert places(Net(run, **parts)) == ["a -> b", "b -> c"]


class TestRefused:
    @pytest.mark.parametrize(
        ("layer", "reason"),
        [
            (nn.GroupNorm(2, 4), "norm (GroupNorm) normalises over several channels"),
            (nn.LocalResponseNorm(2), "norm (LocalResponseNorm) normalises over several channels"),
            (nn.LayerNorm(8), "norm (LayerNorm) normalises over several channels"),
            (nn.Softmax2d(), "norm (Softmax2d) is not known to treat each channel on its own"),
            (nn.PReLU(), "norm (PReLU) has one slope for all channels"),
            (nn.PixelShuffle(2), "norm (PixelShuffle) is not known"),
            (nn.Flatten(2), "norm (Flatten) flattens dimensions 2 to -1"),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
    )
    def test_a_layer_that_mixes_channels_is_named(self, layer, reason):
        outputs = layer(torch.zeros(2, 4, 8, 8)).shape[1]
        last = nn.Linear(64, 2) if isinstance(layer, nn.Flatten) else conv(outputs, 2)
        assert reason in refusal(named(a=conv(), norm=layer, b=last))

    def test_a_norm_over_the_features_of_tokens_is_named(self):
        host = named(a=nn.Linear(5, 8), norm=nn.LayerNorm(8), b=nn.Linear(8, 5))
        assert "norm (LayerNorm) normalises over several channels" in refusal(host, torch.zeros(2, 7, 5))

    @pytest.mark.parametrize(
        ("run", "reason"),
        [
            (lambda n, x: n.b(n.a(x) + x), "torch.Tensor.add joins it with another tensor of shape (2, 3, 8, 8)"),
            (lambda n, x: (h := n.a(x), n.b(h) + h)[1], "are read by b and by torch.Tensor.add too"),
            (lambda n, x: n.b(n.a(x).flip(1)), "torch.Tensor.flip is not known"),
            (lambda n, x: n.b(n.a(x).cumsum(1)), "torch.Tensor.cumsum is not known"),
            (lambda n, x: n.b(n.a(x).softmax(1)), "torch.Tensor.softmax is not known"),
            (lambda n, x: n.b(n.a(n.a(x))), "a is called 2 times"),
            (lambda n, x: (h := n.a(x), n.b(h - h.mean()))[1], "torch.Tensor.mean"),
            (lambda n, x: n.b(n.a(x) * n.b.bias.sum()), "joins it with another tensor"),
            (lambda n, x: (h := n.a(x), n.b(h) * (1.0 if bool(h.sum() > 0) else 2.0))[1], "torch.Tensor.sum"),
            (lambda n, x: n.b(n.a(x).transpose(2, 3)), "torch.Tensor.transpose is not known"),
        ],
        ids=lambda value: value.replace("torch.", "") if isinstance(value, str) else "",
    )
    def test_a_function_that_mixes_channels_is_named(self, run, reason):
        assert reason in refusal(Net(run, a=conv(3, 3), b=conv(3, 3)))

    def test_what_a_trace_does_not_show_is_found_by_a_wider_copy(self):
        def run(net, x):
            hidden = net.a(x)
            return net.b(hidden / hidden.shape[1])

        text = refusal(Net(run, a=conv(), b=conv(4, 2)))
        assert "a -> b: a wider copy of the host computes something else" in text

    def test_layers_that_do_not_fit_are_named(self):
        host = named(a=conv(), norm=nn.BatchNorm2d(4), b=conv(4, 2))
        assert "norm (BatchNorm2d) is neither a convolution nor a linear layer" in refusal(host, place="norm -> b")
        assert "the channels of a are read by b, not by norm" in refusal(host, place="a -> norm")
        for place in ("c -> b", "a -> c"):
            with pytest.raises(ValueError, match=r"slot r0c0: unknown submodule 'c' \(known: a, norm, b\)"):
                MorphogeneticModel.wrap(host, {"r0c0": place}, IMAGES)
        assert "a span is written 'producer -> consumer'" in refusal(host, place="a -> norm -> b")

    def test_shared_and_frozen_weights_are_named(self):
        tied = named(a=nn.Linear(5, 5), b=nn.Linear(5, 5), c=nn.Linear(5, 2))
        tied.b.weight = tied.a.weight
        assert "a.weight is shared with another layer" in refusal(tied, VECTORS)
        frozen = named(a=nn.Linear(5, 5), b=nn.Linear(5, 2))
        frozen.b.weight.requires_grad_(False)
        assert "b.weight is frozen (requires_grad=False)" in refusal(frozen, VECTORS)

    def test_layers_that_compute_their_weight_are_refused(self):
        host = named(a=nn.utils.parametrizations.weight_norm(nn.Linear(5, 5)), b=nn.Linear(5, 2))
        assert "a (ParametrizedLinear) is neither" in refusal(host, VECTORS)

    def test_a_slot_inside_a_span_is_refused(self):
        host = named(a=conv(), act=nn.ReLU(), b=conv(4, 2))
        with pytest.raises(SpanError, match="slot r0c1 on 'act' sits inside the span of slot r0c0"):
            MorphogeneticModel.wrap(host, {"r0c0": "a -> b", "r0c1": "act"}, IMAGES)

    def test_overlapping_spans_are_refused(self):
        host = named(a=conv(3, 6), depth=conv(6, 6, groups=6), b=conv(6, 4))
        with pytest.raises(ValueError, match="slots r0c0 and r0c1 sit on the same submodule"):
            MorphogeneticModel.wrap(host, {"r0c0": "a -> b", "r0c1": "depth -> b"}, IMAGES)

    def test_a_model_without_spans_says_why(self):
        with pytest.raises(
            SpanError, match="Linear has no span that can be widened: the channels of Linear are output of the model"
        ):
            find_spans(nn.Linear(3, 2), torch.zeros(2, 3))

    def test_nothing_of_the_model_has_changed(self):
        host = named(a=conv(), norm=nn.BatchNorm2d(4), b=conv(4, 2)).train()
        before = {name: value.clone() for name, value in host.state_dict().items()}
        find_spans(host, IMAGES)
        assert all(torch.equal(value, before[name]) for name, value in host.state_dict().items())
        assert host.training
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in host.modules())


class TestTraining:
    def test_a_reader_in_training_alone_is_seen(self):
        def run(m, x):
            hidden = relu(m.a(x))
            return (m.b(hidden), m.c(hidden)) if m.training else m.b(hidden)

        message = refusal(Net(run, a=nn.Linear(5, 6), b=nn.Linear(6, 2), c=nn.Linear(6, 2)), VECTORS)
        assert "in training mode, the channels of a are read by b and by c too" in message

    def test_a_step_in_training_alone_is_seen(self):
        def run(m, x):
            hidden = relu(m.a(x))
            return m.b(dropout(hidden, 0.5) if m.training else hidden)

        message = refusal(Net(run, a=nn.Linear(5, 6), b=nn.Linear(6, 2)), VECTORS)
        assert "in training mode other steps lie behind a: torch.nn.functional.relu, torch.nn.functional.d" in message

    def test_a_training_pass_that_fails_is_told(self):
        def run(m, x):
            if m.training:
                raise ValueError("targets are needed")
            return m.b(relu(m.a(x)))

        message = refusal(Net(run, a=nn.Linear(5, 6), b=nn.Linear(6, 2)), VECTORS)
        assert "a pass in training mode on the example fails: targets are needed" in message

    def test_the_search_changes_nothing(self):
        host = named(a=conv(), norm=nn.BatchNorm2d(4), act=nn.ReLU(), b=conv(4, 6))
        before = {name: value.clone() for name, value in host.state_dict().items()}
        random = torch.get_rng_state()
        find_spans(host, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
        assert all(torch.equal(value, before[name]) for name, value in host.state_dict().items())
        assert torch.equal(torch.get_rng_state(), random)
        assert host.training

    @pytest.mark.parametrize("width", [6, 256])
    def test_a_scale_that_follows_from_the_width_is_no_span(self, width):
        def run(m, x):
            hidden = relu(m.a(x))
            return x[:, :2] + m.b(hidden * hidden.shape[-1] ** -0.5)

        host = Net(run, a=nn.Linear(5, width), b=nn.Linear(width, 2))
        assert "a wider copy of the host computes something else" in refusal(host, torch.randn(2, 5))


def test_a_table_that_does_not_depend_on_the_examples_is_no_span():
    def run(net, x):
        table = net.b(net.a(torch.ones(49, 2)).relu())
        return net.d(net.c(x).relu()) + table.mean()

    parts = {"a": nn.Linear(2, 4), "b": nn.Linear(4, 1), "c": nn.Linear(5, 6), "d": nn.Linear(6, 2)}
    assert places(Net(run, **parts), VECTORS) == ["c -> d"]
