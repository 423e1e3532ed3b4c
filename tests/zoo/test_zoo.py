"""The zoo: architectures of libraries and of our own, from wrapping to the export of what has grown."""

import json
import re
from collections import Counter

import pytest
import torch
from span_life import widen
from write_results import RESULTS, entry
from zoo_architectures import architectures
from zoo_life import live

ALL = {architecture.name: architecture for architecture in architectures()}
QUICK = (
    *("timm mobilenetv3_small_050", "torchvision squeezenet1_1"),
    *("transformers llama", "transformers bert", "transformers whisper", "transformers albert"),
    *("own cnn", "own lstm with time first", "own encoder", "own reentrant checkpointing", "own u-net"),
    *("own channels last", "own weight norm"),
)
"""The cheapest of each kind."""
NUMBERS = {"timm": 40, "torchvision": 22, "transformers": 25, "own": 13}
"""Smallest number of architectures by library."""


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def recorded():
    return json.loads(RESULTS.read_text())


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", QUICK)
def test_seeds_grow_in_an_architecture_until_it_is_exported(name):
    architecture = ALL[name]
    if architecture.refused is None:
        assert live(architecture, until="plain").failed == {}
        return
    with pytest.raises(ValueError, match=architecture.refused):
        live(architecture)


@pytest.mark.nightly
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ALL)
def test_the_life_of_an_architecture_is_the_recorded_one(name):
    expected = recorded()[name]
    actual = entry(ALL[name])
    assert {key: actual.get(key) for key in expected} == expected
    assert actual["result"] in ("right", "refused")


def test_the_zoo_is_large_enough():
    counted = Counter(name.partition(" ")[0] for name in ALL)
    assert all(counted[library] >= number for library, number in NUMBERS.items())
    assert recorded().keys() <= ALL.keys()


@pytest.mark.nightly
def test_every_architecture_has_a_complete_result():
    results = recorded()
    assert results.keys() == ALL.keys()
    assert [name for name, result in results.items() if result["result"] == "right" and "onnx" not in result] == []


def test_at_least_95_of_100_architectures_are_right_to_the_end():
    results = recorded()
    assert sum(result["result"] == "right" for result in results.values()) >= 0.95 * len(results)


def test_what_is_not_right_is_refused_for_the_reason_in_the_table():
    for name, result in recorded().items():
        if result["result"] == "right":
            assert ALL[name].refused is None
        else:
            assert result["result"] == "refused"
            assert re.search(ALL[name].refused, result["reason"])


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "spans"),
    [
        ("timm mobilenetv3_small_050", 13),
        ("torchvision squeezenet1_1", 1),
        ("transformers bert", 2),
        ("own cnn", 1),
        ("own encoder", 1),
    ],
)
def test_every_span_of_an_architecture_is_widened_and_folded(name, spans):
    assert int(widen(ALL[name], export=False)["spans"]) >= spans


@pytest.mark.nightly
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name, each in ALL.items() if each.refused is None])
def test_every_span_of_every_architecture_is_folded_and_exported(name):
    result = widen(ALL[name], export=True)
    assert result["spans"] != "0" or result["reason"]
    assert {result.get("export", "ok"), result.get("onnx", "ok")} <= {"ok", "host"}
