"""Places that a slot is refused at, with the reason, and hosts that stay as they were."""

import warnings

import pytest
import torch
from kasmina_builders import READY
from torch import nn

from esper_ray.kasmina.model import MorphogeneticModel


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(x).relu()


class Host(nn.Module):
    def __init__(self):
        super().__init__()
        self.block, self.head = Block(), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.block(x))


def wrap(host, place="block.inner", example=None):
    example = torch.zeros(2, 4) if example is None else example
    return MorphogeneticModel.wrap(host, {"r0c0": place}, example, rules=READY)


def hooks(host):
    return [hook for module in host.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]


def compiled_inside():
    host = Host()
    host.block = torch.compile(host.block, backend="eager")
    return host, "block._orig_mod.inner", "inside 'block', which is compiled by torch.compile"


def compiled_in_place():
    host = Host()
    host.block.compile(backend="eager")
    return host, "block.inner", "inside 'block', which is compiled by torch.compile"


def compiled_whole():
    return torch.compile(Host(), backend="eager"), "_orig_mod.block", "inside the host, which is compiled"


def scripted():
    host = Host()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch say that TorchScript ends
        host.block = torch.jit.script(host.block)
    return host, "block.inner", "inside 'block', which is compiled by TorchScript"


@pytest.mark.parametrize("build", [compiled_inside, compiled_in_place, compiled_whole, scripted])
def test_a_place_inside_compiled_code_is_refused_with_the_compiled_module(build):
    host, place, message = build()
    with pytest.raises(ValueError, match=rf"slot r0c0: .* {message}"):
        wrap(host, place)
    assert hooks(host) == []


class Silent(Host):
    def forward(self, x):
        super().forward(x)


def test_a_host_without_a_tensor_in_its_output_is_refused():
    host = Silent()
    with pytest.raises(ValueError, match="Silent returns a NoneType, which holds no tensor"):
        wrap(host)
    assert hooks(host) == []


def test_the_error_of_a_host_on_its_example_is_raised_as_it_is():
    host = Host()
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        wrap(host, example=torch.zeros(2, 5))
    assert hooks(host) == []


def test_wrapping_changes_neither_modes_nor_tensors_nor_random_numbers():
    host = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    host[2].eval()
    before, modes = {n: t.clone() for n, t in host.state_dict().items()}, [m.training for m in host.modules()]
    example = torch.randn(2, 4)
    copied = example.clone()
    torch.manual_seed(5)
    wrap(host, "1", example)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(5)))
    assert [m.training for m in host.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in host.state_dict().items())
    assert torch.equal(example, copied)
