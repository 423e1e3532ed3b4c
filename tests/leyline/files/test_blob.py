"""Codec of tensors and JSON: exact round trips, and refusal of damaged or foreign data."""

import json
import math
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from esper_ray.leyline.errors import UserError
from esper_ray.leyline.files.blob import BlobFormat, prefixed, under


class SampleError(UserError, ValueError):
    """A sample blob that cannot be used."""

    remedy = "Write it again."


SAMPLE = BlobFormat("sample", 3, SampleError, safetensors.numpy)
TORCH = BlobFormat("sample", 3, SampleError, safetensors.torch)
NAMES = st.text(max_size=12).filter(lambda name: name != "__metadata__")
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
DTYPES = st.sampled_from(["bool", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"])
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
ARRAYS = arrays.arrays(DTYPES.map(np.dtype), SHAPES)
LAYOUTS = {
    "as drawn": lambda array: array,
    "transposed": lambda array: array.T,
    "reversed": lambda array: array[::-1] if array.ndim else array,
    "every second": lambda array: array[..., ::2] if array.ndim else array,
    "broadcast": lambda array: np.broadcast_to(array, (2, *array.shape)),
}
WHOLE = SAMPLE.encode({"a": np.arange(6.0).reshape(2, 3), "b": np.zeros((), np.int8)}, {"x": [1, None, "é"]})


def same_bytes(first, second):
    return (first.dtype, first.shape, first.tobytes()) == (second.dtype, second.shape, second.tobytes())


@given(st.dictionaries(NAMES, st.tuples(ARRAYS, st.sampled_from(sorted(LAYOUTS))), max_size=4), TREES)
def test_any_tree_and_any_arrays_round_trip_bit_for_bit(arrays, tree):
    written = {name: LAYOUTS[layout](array) for name, (array, layout) in arrays.items()}
    blob = SAMPLE.decode(SAMPLE.encode(written, tree), "it")
    assert json.dumps(blob.content) == json.dumps(tree)  # distinguishes NaN from other numbers, and -0.0 from 0.0
    assert blob.tensors.keys() == written.keys()
    assert all(same_bytes(blob.tensors[name], array) for name, array in written.items())


@given(st.binary(min_size=4, max_size=4), st.integers(0, len(WHOLE) - 1))
def test_changed_bytes_are_refused_or_decode_to_the_same_content(noise, place):
    changed = bytearray(WHOLE)
    changed[place : place + 4] = noise[: len(WHOLE) - place]
    try:
        blob = SAMPLE.decode(bytes(changed), "it")
    except SampleError:
        return
    expected = SAMPLE.decode(WHOLE, "it")
    assert blob.content == expected.content
    assert all(same_bytes(blob.tensors[name], array) for name, array in expected.tensors.items())


def test_every_flipped_bit_of_the_data_is_refused():
    start = 8 + struct.unpack("<Q", WHOLE[:8])[0]
    for place in range(start, len(WHOLE)):
        for bit in range(8):
            changed = bytearray(WHOLE)
            changed[place] ^= 1 << bit
            with pytest.raises(SampleError, match="it is damaged: the SHA-256 digest of its content differs"):
                SAMPLE.decode(bytes(changed), "it")


@given(st.integers(0, len(WHOLE) - 1), st.binary(max_size=3))
def test_a_truncated_blob_is_refused_as_damaged(length, appended):
    with pytest.raises(SampleError, match="it is damaged"):
        SAMPLE.decode(WHOLE[:length], "it")
    if appended:
        with pytest.raises(SampleError, match="it is damaged"):
            SAMPLE.decode(WHOLE + appended, "it")


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data):
    with pytest.raises(SampleError, match=r"it is (damaged|of kind)"):
        SAMPLE.decode(data, "it")


@given(st.text(), st.integers())
def test_another_kind_or_version_is_refused_with_both_values(kind, version):
    if (kind, version) == ("sample", 3):
        return
    data = BlobFormat(kind, version, SampleError, safetensors.numpy).encode({}, None)
    with pytest.raises(SampleError) as caught:
        SAMPLE.decode(data, "file x")
    expected = f"file x is of kind {kind!r} version {version!r}, expected kind 'sample' version 3"
    assert str(caught.value) == expected


def test_a_safetensors_file_without_envelope_has_no_kind():
    data = safetensors.numpy.save({"a": np.zeros(2)}, metadata={"format": "pt"})
    with pytest.raises(SampleError, match=r"it is of kind None version None, expected kind 'sample' version 3"):
        SAMPLE.decode(data, "it")


@pytest.mark.parametrize("version", [True, 3.5, "3", None])
def test_a_version_that_is_no_integer_is_refused(version):
    envelope = SAMPLE.seal([1]) | {"version": version}
    with pytest.raises(SampleError, match=rf"version {version!r}, expected kind 'sample' version 3"):
        SAMPLE.unseal(envelope, "it")


@pytest.mark.parametrize("envelope", [None, [], "text", 3])
def test_an_envelope_that_is_no_object_is_refused(envelope):
    with pytest.raises(SampleError, match="it is damaged: its envelope is not a JSON object"):
        SAMPLE.unseal(envelope, "it")


@pytest.mark.parametrize("header", [b"[]", b"{", b"null", b'{"__metadata__": []}', b'{"__metadata__": {"esper": 1}}'])
def test_a_header_that_is_no_object_of_texts_is_refused(header):
    with pytest.raises(SampleError, match="it is damaged: its header"):
        SAMPLE.decode(struct.pack("<Q", len(header)) + header, "it")


def test_an_envelope_with_another_payload_is_refused():
    envelope = SAMPLE.seal({"x": 1}, b"ab", b"c")
    assert SAMPLE.unseal(json.loads(json.dumps(envelope)), "it", b"abc") == {"x": 1}
    for payload in (b"abd", b"ab", b""):
        with pytest.raises(SampleError, match="SHA-256 digest of its content differs"):
            SAMPLE.unseal(envelope, "it", payload)
    with pytest.raises(SampleError, match="SHA-256 digest of its content differs"):
        SAMPLE.unseal(envelope | {"content": {"x": 2}}, "it", b"abc")


def test_torch_tensors_round_trip_bit_for_bit():
    tensors = {
        "nan": torch.tensor([math.nan, -0.0, math.inf]),
        "half": torch.tensor([[1.5], [2.0**-133]], dtype=torch.bfloat16),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3, dtype=torch.bool),
    }
    blob = TORCH.decode(TORCH.encode(tensors, [1]), "it")
    assert blob.content == [1]
    for name, tensor in tensors.items():
        assert (blob.tensors[name].dtype, blob.tensors[name].shape) == (tensor.dtype, tensor.shape)
        assert blob.tensors[name].untyped_storage().tolist() == tensor.untyped_storage().tolist()
    assert blob.tensors["scalar"] == 7


def test_a_blob_is_a_standard_safetensors_file(tmp_path):
    SAMPLE.write(tmp_path / "a", {"a": np.arange(3)}, {"x": 1})
    with safetensors.safe_open(tmp_path / "a", framework="np") as file:
        envelope = json.loads(file.metadata()["esper"])
        assert file.get_tensor("a").tolist() == [0, 1, 2]
    assert (envelope["kind"], envelope["version"], envelope["content"]) == ("sample", 3, {"x": 1})
    assert struct.unpack("<Q", (tmp_path / "a").read_bytes()[:8])[0] % 8 == 0


def test_equal_parts_give_equal_bytes_in_every_process():
    code = (
        "import numpy as np, safetensors.numpy, sys; from esper_ray.leyline.files.blob import BlobFormat\n"
        "format = BlobFormat('sample', 3, ValueError, safetensors.numpy)\n"
        "tensors = {'a': np.arange(6.0).reshape(2, 3), 'b': np.zeros((), np.int8)}\n"
        "sys.stdout.buffer.write(format.encode(tensors, {'x': [1, None, 'é']})); assert 'torch' not in sys.modules"
    )
    for seed in "12":
        environment = os.environ | {"PYTHONHASHSEED": seed}
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment)
        assert result.stdout == WHOLE


def test_a_failed_write_leaves_only_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    SAMPLE.write(path, {}, 1)

    def full(descriptor, data):
        os.write(descriptor, data[:9])
        raise OSError("disk full")

    monkeypatch.setattr("esper_ray.leyline.files.durable.write_all", full)
    with pytest.raises(OSError, match="disk full"):
        SAMPLE.write(path, {}, 2)
    assert SAMPLE.read(path, "it").content == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(SampleError, match="it cannot be read: "):
            SAMPLE.read(path, "it")


@given(st.dictionaries(NAMES, st.integers(), max_size=4), st.text(max_size=4))
def test_prefixes_are_added_and_removed(tensors, prefix):
    foreign = {f"{chr(0)}{prefix}x": 1}
    assert under(f"{prefix}/", prefixed(f"{prefix}/", tensors) | foreign) == tensors
