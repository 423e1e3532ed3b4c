"""Growth in a user's training loop: epochs, steps, endings."""

import warnings
from dataclasses import replace

import pytest
import torch
from growing_builders import Dropping, Script, Small, examples, seeded, train_by_hand, vectors, weights_of
from torch.nn.functional import cross_entropy

from esper_ray.environment import MorphogenesisEnv
from esper_ray.growing import grow
from esper_ray.kasmina.measurement.seed_measurements import MeasuredSeeds
from esper_ray.leyline.actions import WAIT, LifecycleOp
from esper_ray.leyline.policy import Decision
from esper_ray.leyline.stages import Stage
from esper_ray.tolaria.assembly import build_organism, derived_seed

pytestmark = pytest.mark.integration

SEED = 5


@pytest.fixture(scope="module")
def env(config):
    return MorphogenesisEnv(config)


def test_growth_in_a_users_loop_equals_growth_in_the_environment(config, bundle, env):
    """Same host, batches, clipping, incubation and policy: same actions, accuracies and weights."""
    env.reset(seed=SEED)
    player = bundle.player()
    player.begin_episode(0)
    expected, over = [], False
    while not over:
        action = player.decide(env.view).action
        accuracy = env.measured.accuracy_pp
        _, _, terminated, truncated, info = env.step(action.to_indices())
        expected.append((info["operation"], info["slot"], info["success"], accuracy))
        over = terminated or truncated

    data = env.data
    organism = build_organism(config, data, env.device, SEED, env.host)
    host, places = organism.model.host, {s: a.module for s, a in organism.model.attachments.items()}
    for module in host.modules():
        module._forward_hooks.clear()  # restores the host of a user without our hooks
    growing = grow(
        host,
        data.prepared(data.validation, 0, len(data.validation)),
        policy=bundle,
        slots=places,
        epochs=len(expected),
        optimizer=torch.optim.SGD,
        lr=0.05,
        momentum=0.9,
        weight_decay=config.training.weight_decay,
        foreach=True,
        seeds={"weight_decay": 0.0},
        seed=derived_seed(SEED, 2),
        clip=config.training.host_grad_clip,
        settle_at_end=False,
    )
    seen = []
    for step in growing:
        plan = data.plan(derived_seed(SEED, 1), step.epoch, 32, 2)
        for rows, draws in zip(plan.rows, plan.draws, strict=True):
            growing.train_step(data.training_batch(rows, draws))
        seen.append((step.operation, step.slot, step.success, step.val_accuracy_pp))
    assert len({operation for operation, *_ in seen}) >= 3, "the episode needs at least three operations"
    assert seen == expected
    assert growing.measured.accuracy_pp == env.measured.accuracy_pp
    assert weights_of(growing.model) == weights_of(env.organism.model)


def test_a_step_equals_four_lines_by_hand_without_clipping():
    x, y = vectors()
    trained = []
    for by_hand in (False, True):
        growing = grow(seeded(Dropping).eval(), (x, y), policy=Script(), epochs=6, clip=None, lr=1e-2, report=len)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            for _ in growing:
                if by_hand:
                    growing.optimizer.zero_grad()
                    growing.loss((x, y)).backward()
                    growing.incubate((x, y))
                    growing.optimizer.step()
                else:
                    growing.train_step((x, y))
        trained.append(weights_of(growing.model))
    assert trained[0] == trained[1]


def test_a_step_returns_the_loss_before_it_and_lowers_it():
    x, y = vectors()
    growing = grow(seeded(Dropping), (x, y), policy="static", epochs=1, lr=1e-2)
    next(growing)
    growing.model.eval()
    expected = cross_entropy(growing.model(x), y).item()
    losses = [growing.train_step((x, y)).item() for _ in range(20)]
    assert losses[0] == pytest.approx(expected)
    assert losses[-1] < losses[0] - 0.05


def test_clipping_limits_the_gradient_of_host_and_of_seeds_apart():
    x, y = vectors()
    growing = grow(seeded(Dropping), (x, y), policy=Script(), epochs=9, clip=1e-3, lr=1e-2, report=len)
    seen = set()
    for _ in growing:
        growing.train_step((x, y))
        for name in growing.optimizer.group_names:
            norms = [p.grad.norm() for p in growing.optimizer.group(name) if p.grad is not None]
            assert torch.stack(norms).norm() <= 1.001e-3
            seen.add(name)
    assert seen == {"host", "r0c0"}


def test_the_grown_model_exports_to_an_ordinary_module(bundle):
    x, y = examples()
    growing = grow(Small(), (x, y), policy=bundle, epochs=6)
    for _ in growing:
        train_by_hand(growing, x, y)
    assert growing.epoch == len(growing.history) == 6
    plain = growing.plain().eval()
    assert plain(x).shape == (24, 3)
    assert type(plain).__module__ != "esper_ray.kasmina.model"


def test_an_epoch_without_a_step_of_the_optimizer_is_an_error(bundle):
    with pytest.raises(RuntimeError, match=r"epoch 0 had 0 steps of growing\.optimizer, .* is the loader empty"):
        list(grow(Small(), examples(), policy=bundle))


def test_a_seed_without_incubation_gradient_causes_a_warning():
    x, y = vectors()
    growing = grow(seeded(Dropping), (x, y), policy=Script(), epochs=4, report=len)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in growing:
            train_by_hand(growing, x, y, incubate=False)
    assert any("call growing.incubate(batch)" in str(w.message) for w in caught)


def test_a_nonfinite_network_is_restored(bundle):
    x, y = examples()
    growing = grow(Small(), (x, y), policy=bundle, epochs=4)
    for step in growing:
        train_by_hand(growing, x, y)
        if step.epoch == 1:
            healthy = {name: tensor.clone() for name, tensor in growing.runtime.health.trusted.organism.tensors.items()}
            with torch.no_grad():
                growing.model.host.head.weight.fill_(float("nan"))
        if step.epoch == 2:
            assert step.restored == "validation loss is not finite"
            break
    assert all(torch.equal(healthy[name], growing.runtime.health.trusted.organism.tensors[name]) for name in healthy)
    assert torch.isfinite(growing.model(x)).all()


# The end


class Waiter(Script):
    """Policy that germinates in the first slot and never commits."""

    def decide(self, view):
        decision = super().decide(view)
        return decision if decision.action.operation is LifecycleOp.GERMINATE else Decision(WAIT)


def ended(epochs, **options):
    """A finished session with one seed, and the reported lines."""
    lines = []
    x, y = vectors()
    growing = grow(seeded(Dropping), (x, y), policy=Waiter(), epochs=epochs, lr=1e-2, report=lines.append, **options)
    for _ in growing:
        growing.train_step((x, y))
    return growing, lines


def test_a_seed_that_never_blended_is_removed_at_the_end_and_reported():
    growing, lines = ended(5, growth={"auto_forward": ["g1"], "blueprints": ["norm"]})
    assert growing.model.states["r0c0"].stage is Stage.PRUNED
    assert lines[-1] == f"r0c0 {growing.endings[0].blueprint}: removed, it was in TRAINING, not at full amplitude"
    assert [ending.committed for ending in growing.endings] == [False]
    assert growing.measured.players == ()


@pytest.mark.parametrize("committed", [True, False])
def test_a_holding_seed_is_committed_at_the_end_if_it_contributes(committed, monkeypatch):
    """The measured contribution is set by hand, above or below zero."""
    known = MeasuredSeeds.of
    value = 2.5 if committed else -2.5
    monkeypatch.setattr(
        MeasuredSeeds,
        "of",
        lambda self, slot: replace(known(self, slot), contribution_pp=value, contribution_error_pp=0.5),
    )
    growing, lines = ended(9)
    assert (growing.model.committed_slots == {"r0c0"}) is committed
    assert lines[-1].endswith(
        "committed, contributes +2.5 ± 0.5 points" if committed else "contribution (pp): -2.5, needed above 0"
    )


def test_seeds_stay_alive_if_they_are_not_to_be_settled():
    growing, _ = ended(9, settle_at_end=False)
    assert growing.endings is None
    assert growing.model.states["r0c0"].stage is Stage.HOLDING


def test_finish_ends_an_epoch_that_was_trained_and_settles_after_a_break():
    x, y = vectors()
    growing = grow(seeded(Dropping), (x, y), policy=Script(), epochs=9, report=len)
    for step in growing:
        growing.train_step((x, y))
        if step.epoch == 1:
            break
    growing.finish()
    assert growing.epoch == 2
    assert growing.endings is not None
    assert all(state is None or state.stage is not Stage.TRAINING for state in growing.model.states.values())


def test_begin_and_end_of_epochs_by_hand_equal_the_iteration():
    x, y = vectors()
    results = []
    for by_hand in (False, True):
        growing = grow(seeded(Dropping), (x, y), policy=Script(), epochs=5, report=len)
        torch.manual_seed(0)
        if by_hand:
            while growing.epoch < growing.epochs:
                growing.begin_epoch()
                growing.train_step((x, y))
                growing.end_epoch()
            growing.finish()
        else:
            for _ in growing:
                growing.train_step((x, y))
        results.append((weights_of(growing.model), growing.history))
    assert results[0] == results[1]
    with pytest.raises(RuntimeError, match="no epoch has begun"):
        growing.end_epoch()
    with pytest.raises(RuntimeError, match="epoch 5 of 5 cannot begin"):
        growing.begin_epoch()


def test_a_batch_that_the_model_cannot_take_is_refused_with_its_shape():
    growing = grow(Small(), examples(), policy="static", epochs=1, report=len)
    next(growing)
    before = weights_of(growing.model)
    with pytest.raises(ValueError, match=r"Small cannot run on a batch of shape \(4, 2, 8, 8\); .* \(2, 1, 8, 8\)"):
        growing.train_step((torch.zeros(4, 2, 8, 8), torch.zeros(4, dtype=torch.long)))
    with pytest.raises(ValueError, match="a batch has 4 inputs and 3 targets"):
        growing.train_step((torch.zeros(4, 1, 8, 8), torch.zeros(3, dtype=torch.long)))
    assert weights_of(growing.model) == before
    assert growing.steps == 0
