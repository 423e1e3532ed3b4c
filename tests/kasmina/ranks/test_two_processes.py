"""Growth in two processes: averaged gradients, equal parameters, and errors where the structures differ."""

import pytest
import torch
from rank_builders import (
    in_two_processes,
    live,
    make_model,
    make_optimizer,
    make_span_model,
    train_step,
    values,
    widen,
)
from rank_scenarios import SCENARIOS, blended_and_incubating
from trainer_builders import examples, session

pytestmark = [pytest.mark.integration, pytest.mark.slow]  # two processes import torch


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Answers of both processes by scenario."""
    return in_two_processes(tmp_path_factory.mktemp("ranks"), SCENARIOS)


def one_process(model, steps, before=lambda step: None):
    """Values of ``model`` after ``steps`` on whole batches."""
    optimizer = make_optimizer(model)
    for step in range(steps):
        before(step)
        train_step(model, optimizer, step, None)
    return values(model)


@pytest.fixture(scope="module")
def lived():
    """A whole life in one process on whole batches: values and events."""
    model = make_model()
    optimizer = make_optimizer(model)
    for _ in live(model, lambda step: train_step(model, optimizer, step, None)):
        pass
    return values(model), [str(event.event) for event in model.events]


def assert_close(actual, expected):
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["life_under_ddp", "life_by_hand", "life_with_accumulated_gradients"])
def test_a_whole_life_in_two_processes_equals_one_process_on_whole_batches(answers, lived, name):
    first, second = answers[name]
    expected, events = lived
    assert any("FOSSILIZED" in event for event in events)
    assert first["stages"] == second["stages"] == events
    assert first["digests"] == second["digests"]
    assert len(set(first["digests"])) == len(first["digests"]) == 11
    assert_close(first["values"], expected)


@pytest.mark.parametrize("name", ["widened_under_ddp", "widened_by_hand"])
def test_a_fold_in_two_processes_equals_one_process_on_whole_batches(answers, name):
    first, second = answers[name]
    model = make_span_model()
    optimizer = make_optimizer(model)
    widen(model, lambda step: train_step(model, optimizer, step, None), lambda: model.fold("r0c0"))
    assert first["digest"] == second["digest"]
    assert_close(first["values"], values(model))
    assert len(first["refusals"]) == (name == "widened_under_ddp")
    assert all("delete it, fold, and build it again" in refusal for refusal in first["refusals"])


def test_seeds_that_exist_when_the_model_is_wrapped_are_averaged_once(answers):
    first, second = answers["wrapped_after_births"]
    model = blended_and_incubating()
    expected = one_process(model, 4, lambda step: model.prune("r0c1") if step == 2 else None)
    assert first["digest"] == second["digest"]
    assert_close(first["values"], expected)


def test_a_growing_network_within_a_wrapped_module_is_averaged_once(answers):
    first, second = answers["wrapped_within_another_module"]
    assert first["digest"] == second["digest"]
    assert_close(first["values"], one_process(blended_and_incubating(), 3))


def test_seeds_that_ddp_would_wait_for_are_refused_with_what_to_call(answers):
    for answer in answers["wrapped_within_another_module_unprepared"]:
        assert answer.startswith("ValueError: DistributedDataParallel waits for gradients of cells.r0c0.seed.")
        assert "leave_out_seeds(module) before" in answer


@pytest.mark.parametrize("name", ["different_newborn_weights", "unfrozen_after_wrapping"])
def test_what_ddp_does_not_know_is_equal_in_both_processes(answers, name):
    first, second = answers[name]
    assert first == second
    assert len(first) == 64


@pytest.mark.parametrize("name", ["born_in_one_process_under_ddp", "born_in_one_process_by_hand"])
def test_a_seed_in_one_process_alone_is_an_error_with_both_structures(answers, name):
    for answer in answers[name]:
        assert answer.startswith("RanksDifferError: the processes have grown different networks:\n  rank 0, in ")
        assert "r0c0 r0c0-1 lora TRAINING, r0c1 empty" in answer
        assert "r0c0 empty, r0c1 empty" in answer


@pytest.mark.parametrize("name", ["session_with_one_held_out_set", "session_with_own_held_out_examples"])
def test_a_session_in_two_processes_measures_all_held_out_examples(answers, name):
    growing = session()
    x, y = examples()
    for _ in growing:
        for rows in torch.arange(len(x)).split(32):
            growing.train_step((x[rows], y[rows]))
    first, second = answers[name]
    assert first == second
    assert first["operations"] == [step.operation for step in growing.history]
    assert "FOSSILIZE" in first["operations"]
    assert first["examples"] == growing.measured.examples == 64
    assert first["accuracy"] == pytest.approx(growing.measured.accuracy_pp, abs=5.0)


@pytest.mark.parametrize("name", ["sharded", "sharded_after_the_optimizer"])
def test_sharded_parameters_are_refused_with_the_reason(answers, name):
    for answer in answers[name]:
        assert answer.startswith("ValueError: the whole network is divided among processes (fully_shard)")
