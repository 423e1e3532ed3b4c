"""Batches of a user's data in their forms."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from esper_ray.kasmina.measurement.batches import as_batch, batches_of, joined


class Named(nn.Module):
    def forward(self, first, second=None, labels=None):
        return first if second is None else first + second


class Plain(nn.Module):
    def forward(self, x):
        return x


X, Y = torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    ("data", "args", "kwargs"),
    [
        ((X, Y), 1, set()),
        ([X, Y], 1, set()),
        (((X, X), Y), 2, set()),
        (({"first": X}, Y), 0, {"first"}),
        ({"first": X, "labels": Y}, 0, {"first", "labels"}),
    ],
)
def test_pairs_and_mappings_become_arguments_and_targets(data, args, kwargs):
    batch = as_batch(data, Named())
    assert (len(batch.args), set(batch.kwargs), batch.rows) == (args, kwargs, 3)
    assert torch.equal(batch.targets, Y)


def test_labels_are_no_argument_of_a_model_that_does_not_take_them():
    batch = as_batch({"x": X, "labels": Y}, Plain())
    assert set(batch.kwargs) == {"x"}
    assert torch.equal(batch.targets, Y)


def test_a_mapping_without_labels_is_its_own_target():
    data = {"first": X, "second": X}
    assert as_batch(data, Named()).targets is data


def test_a_part_cuts_what_has_a_row_for_each_example_alone():
    shared = torch.ones(2, 2)
    part = as_batch(({"first": X, "second": shared, "flag": True}, {"a": Y}), Named()).part(1, 9)
    assert part.rows == 2
    assert torch.equal(part.kwargs["first"], X[1:])
    assert torch.equal(part.kwargs["second"], shared)
    assert torch.equal(part.targets["a"], Y[1:])
    assert part.shapes == "first (2, 2), second (2, 2), flag bool"


def test_neighbours_of_equal_shapes_are_concatenated():
    wide = torch.zeros(1, 5)
    batches = [(X, Y), (X[:1], Y[:1]), (wide, Y[:1]), (X, Y)]
    groups = joined(batches_of(batches, Plain()))
    assert [(group.rows, group.args[0].shape[1]) for group in groups] == [(4, 2), (1, 5), (3, 2)]
    assert torch.equal(groups[0].targets, torch.tensor([0, 1, 2, 0]))


@pytest.mark.parametrize(
    "data", [(X, Y), TensorDataset(X, Y), DataLoader(TensorDataset(X, Y), batch_size=2), {"x": X, "labels": Y}]
)
def test_sets_and_loaders_yield_all_examples_in_order(data):
    [batch] = joined(batches_of(data, Plain()))
    assert torch.equal(batch.targets, Y)
    assert torch.equal(batch.inputs[0], X)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, Y[:2]), "a batch has 3 inputs and 2 targets"),
        ((X, X, Y), r"a pair \(inputs, targets\) or a mapping of named inputs, got a tuple of 3; several inputs are"),
        (X, "got a Tensor"),
        (("a", Y), "at least one tensor of inputs"),
    ],
)
def test_anything_else_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        as_batch(data, Plain())
