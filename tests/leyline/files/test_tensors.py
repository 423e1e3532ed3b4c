"""Tensors on disk: what a file cannot hold exactly is refused by name, everything else is exact."""

import warnings

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from torch import nn

from esper_ray.leyline.errors import UserError
from esper_ray.leyline.files.blob import BlobFormat
from esper_ray.leyline.files.tensors import TensorSpec, listed, tensor_problems


class SampleError(UserError, ValueError):
    """A sample that cannot be written."""

    remedy = "Write another one."


class Tagged(torch.Tensor):
    """A subclass, such as those of quantisation libraries."""


def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch will remove such tensors
        return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


TORCH = BlobFormat("sample", 3, SampleError, safetensors.torch)
NUMPY = BlobFormat("sample", 3, SampleError, safetensors.numpy)
BASE = torch.arange(12.0)
COMPLEX = torch.tensor([1.0 + 2.0j, 3.0 - 4.0j])
EXACT = {
    "transposed": BASE.reshape(3, 4).T,
    "every second": BASE[::2],
    "a part": BASE[3:7],
    "expanded": torch.ones(1).expand(5),
    "overlapping": BASE.unfold(0, 4, 1),
    "channels last": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
    "negated view": COMPLEX.conj().imag,
    "conjugated": COMPLEX.conj(),
    "scalar of a vector": BASE[5],
    "with gradient": torch.ones(3, requires_grad=True) * 2,
    "parameter": nn.Parameter(torch.ones(2)),
    "empty": torch.zeros(0, 3),
    "float8": torch.tensor([1.5, -2.0]).to(torch.float8_e4m3fn),
    "bfloat16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "unsigned": torch.tensor([2**32 - 1], dtype=torch.uint32),
}


def nested():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls them a prototype
        return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


REFUSED = {
    "nested": (nested(), "it is nested; make it dense with to_padded_tensor()"),
    "sparse": (torch.eye(3).to_sparse(), "it has the layout torch.sparse_coo; make it dense"),
    "quantised": (quantised(), "it is quantised (torch.qint8); make it plain with dequantize()"),
    "meta": (torch.zeros(2, device="meta"), "it is on the device meta and has no data"),
    "subclass": (torch.ones(2).as_subclass(Tagged), "it is of the tensor subclass Tagged"),
    "lazy": (nn.LazyLinear(3).weight, "it is of the tensor subclass UninitializedParameter"),
    "double complex": (COMPLEX.to(torch.complex128), "it has the element type torch.complex128"),
    "dictionary": ({"calls": 3}, "it is a dict; only tensors can be stored"),
    "number": (3.0, "it is a float; only tensors can be stored"),
}


@pytest.mark.parametrize("name", EXACT)
def test_a_tensor_of_any_layout_round_trips_exactly(name):
    tensor = EXACT[name]
    loaded = TORCH.decode(TORCH.encode({name: tensor, "again": tensor}, None), "it").tensors
    for copy in loaded.values():
        assert (copy.dtype, copy.shape) == (tensor.dtype, tensor.shape)
        assert copy.tolist() == tensor.tolist() if tensor.dtype != torch.float8_e4m3fn else torch.equal(copy, tensor)


def test_tensors_that_share_memory_round_trip_exactly():
    tensors = {"whole": BASE, "part": BASE[:4], "other": BASE[2:], "same": BASE}
    loaded = TORCH.decode(TORCH.encode(tensors, None), "it").tensors
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("name", REFUSED)
def test_a_tensor_that_cannot_be_written_exactly_is_refused_by_name(name, tmp_path):
    tensor, reason = REFUSED[name]
    with pytest.raises(SampleError) as caught:
        TORCH.write(tmp_path / "file", {"good": BASE, f"host.{name}": tensor}, None)
    assert str(caught.value).startswith(f"sample: host.{name} cannot be written: {reason}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.array(["a"]), "it has the element type <U1"),
        (np.array([object()]), "it has the element type object"),
        (np.array([1], "datetime64[s]"), "it has the element type datetime64"),
        (np.ma.masked_array([1, 2], [True, False]), "it is of the tensor subclass MaskedArray"),
        (np.zeros(2, np.longdouble), "it has the element type"),
    ],
)
def test_an_array_that_cannot_be_written_exactly_is_refused_by_name(array, reason):
    with pytest.raises(SampleError, match=f"column cannot be written: {reason}"):
        NUMPY.encode({"column": array}, None)


def test_an_array_of_foreign_byte_order_round_trips():
    loaded = NUMPY.decode(NUMPY.encode({"a": np.arange(5, dtype=">i4")}, None), "it").tensors["a"]
    assert loaded.tolist() == [0, 1, 2, 3, 4]
    assert loaded.dtype == np.int32


@pytest.mark.parametrize("name", ["__metadata__", "\ud800", 3])
def test_a_name_that_a_file_cannot_hold_is_refused(name):
    with pytest.raises(SampleError, match="cannot be written: the name is"):
        TORCH.encode({name: BASE}, None)


SPECS = {"weight": TensorSpec("float32", (2, 2), most=1e9), "step": TensorSpec("float32", (), least=0.0, whole=True)}
GOOD = {"weight": torch.ones(2, 2), "step": torch.tensor(3.0)}
DAMAGED = {
    "missing": ({"step": GOOD["step"]}, "tensor weight is missing"),
    "additional": (GOOD | {"bias": BASE}, "tensor bias is not one of the 2 expected ones"),
    "shape": (GOOD | {"weight": torch.ones(4)}, "tensor weight has shape (4,), it must be (2, 2)"),
    "type": (GOOD | {"weight": torch.ones(2, 2).half()}, "tensor weight has type float16, it must be float32"),
    "nan": (
        GOOD | {"weight": torch.tensor([[0, 1], [torch.nan, 2]])},
        "tensor weight has nan at [1, 0], it must be finite",
    ),
    "huge": (
        GOOD | {"weight": torch.tensor([[0, 1e9], [-2e9, 2]])},
        "tensor weight has -2e+09 at [1, 0], it must be at most 1e+09 in size",
    ),
    "negative": (GOOD | {"step": torch.tensor(-1.0)}, "tensor step has -1, it must be at least 0"),
    "fraction": (GOOD | {"step": torch.tensor(2.5)}, "tensor step has 2.5, it must be a whole number"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_every_difference_is_named_with_value_and_constraint(name):
    tensors, problem = DAMAGED[name]
    assert tensor_problems(tensors, SPECS) == [problem]
    arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
    assert tensor_problems(arrays, SPECS) == [problem]


def test_matching_tensors_have_no_problem():
    assert tensor_problems(GOOD, SPECS) == []


def test_a_list_of_problems_is_one_line_with_the_number_of_others():
    assert listed(["a", "b"]) == "a; b"
    assert listed(list("abcdef")) == "a; b; c; d; and 2 more"
