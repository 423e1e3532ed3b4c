"""Epoch training against plain PyTorch loops."""

import copy
import functools
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from esper_ray.kasmina.hosts import build_host
from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.kasmina.network.records import HOST_GROUP
from esper_ray.kasmina.optimizer import GrowingOptimizer
from esper_ray.kasmina.organism import Organism
from esper_ray.leyline.config.loading import build
from esper_ray.leyline.stages import Stage
from esper_ray.tolaria.assembly import build_organism, build_trainer, derived_seed
from esper_ray.tolaria.data import EpochPlan, epoch_batches
from esper_ray.tolaria.rng import keyed_randomness
from esper_ray.tolaria.stepping.learning_rates import learning_rates
from esper_ray.tolaria.training import EpochSettings, Trainer

pytestmark = pytest.mark.integration

SETTINGS = EpochSettings(host_grad_clip=1.0, seed_grad_clip=1.0, incubation_share=0.5)
UNCLIPPED = EpochSettings(host_grad_clip=1e9, seed_grad_clip=1e9, incubation_share=0.5)
TRAINING = (Stage.TRAINING, 0.0)


def train_epoch(organism, data, batches, settings):
    """One epoch on given rows, without augmentation."""
    plan = EpochPlan(batches, torch.empty((*batches.shape, 0), dtype=torch.int64))
    return Trainer(organism, data, settings).train(plan)


def batches_of(data, epoch=0, steps=4, size=32):
    return epoch_batches(11, epoch, len(data.train), size, steps)


def plain_host(config, data, seed):
    with seeded_initialisation(derived_seed(seed, 0)):
        return build_host(config.host, (1, 8, 8), data.classes).module


def plain_epoch(host, sgd, data, batches, clip):
    """A plain training loop; returns mean loss, accuracy and mean gradient norm."""
    host.train()
    losses, correct, norms = [], 0, []
    for rows in batches:
        x = torch.stack([(data.train.images[row].float() - data.mean) / data.deviation for row in rows.tolist()])
        logits = host(x)
        loss = cross_entropy(logits, data.train.labels[rows])
        sgd.zero_grad()
        loss.backward()
        norms.append(clip_grad_norm_(host.parameters(), clip).item())
        sgd.step()
        losses.append(loss.item())
        correct += (logits.argmax(dim=1) == data.train.labels[rows]).sum().item()
    return sum(losses) / len(losses), 100.0 * correct / batches.numel(), sum(norms) / len(norms)


def sgd_of(config, host):
    t = config.training
    return torch.optim.SGD(host.parameters(), lr=t.lr, momentum=t.momentum, weight_decay=t.weight_decay)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def host_weights(organism):
    return {name: tensor.clone() for name, tensor in organism.model.host.state_dict().items()}


@pytest.mark.parametrize("clip", [0.05, 1e9], ids=["clipped", "unclipped"])
def test_without_seeds_an_epoch_is_bit_equal_to_a_plain_loop(config, data, grow, clip):
    organism, host = grow(seed=4), plain_host(config, data, 4)
    assert same(organism.model.host.state_dict(), host.state_dict())
    sgd = sgd_of(config, host)
    for epoch in range(3):
        batches = batches_of(data, epoch)
        loss, accuracy, norm = plain_epoch(host, sgd, data, batches, clip)
        result = train_epoch(organism, data, batches, EpochSettings(clip, 1.0, 0.5))
        assert same(organism.model.host.state_dict(), host.state_dict())
        assert result.loss == pytest.approx(loss, rel=1e-6)
        assert result.accuracy_pp == pytest.approx(accuracy, abs=1e-4)
        assert result.gradients == {}
        assert norm > 0.05  # so that the clip of 0.05 was at work


def test_a_seed_in_training_does_not_change_the_host_by_a_single_bit(data, grow):
    alone, growing = grow(seed=2), grow(seed=2, r0c1=TRAINING)
    for epoch in range(3):
        plain = train_epoch(alone, data, batches_of(data, epoch), SETTINGS)
        result = train_epoch(growing, data, batches_of(data, epoch), SETTINGS)
        assert (result.loss, result.accuracy_pp) == (plain.loss, plain.accuracy_pp)
    assert same(host_weights(alone), host_weights(growing))
    assert growing.model.cell("r0c1").seed.scale.abs().max() > 0  # it did learn


def test_the_clip_of_the_seeds_does_not_reach_the_host(data, grow):
    hosts, seeds = [], []
    for clip in (1e-4, 1e9):
        organism = grow(seed=2, r0c1=(Stage.BLENDING, 0.5))
        train_epoch(organism, data, batches_of(data, steps=1), EpochSettings(1.0, clip, 0.5))
        hosts.append(host_weights(organism))
        seeds.append(organism.model.cell("r0c1").seed.scale.detach().clone())
    assert same(*hosts)
    assert not torch.equal(*seeds)


def clipped_norms(organism):
    """Norm of each group's first momentum, which is its clipped gradient (plus the host's weight decay)."""
    groups = {name: organism.optimizer.group(name) for name in organism.optimizer.group_names if name != HOST_GROUP}
    return {
        name: torch.stack([organism.optimizer.parameter_state(p)["momentum_buffer"].norm() for p in group])
        .norm()
        .item()
        for name, group in groups.items()
    }


def test_each_seed_is_clipped_separately(data, grow):
    """A small gradient keeps its norm and a large one is clipped to the limit."""
    slots = {"r0c0": (Stage.BLENDING, 1.0), "r0c2": (Stage.BLENDING, 0.01)}
    free, cut = grow(seed=1, **slots), grow(seed=1, **slots)
    train_epoch(free, data, batches_of(data, steps=1), UNCLIPPED)
    norms = clipped_norms(free)
    limit = math.sqrt(norms["r0c0"] * norms["r0c2"])
    assert norms["r0c2"] < 0.9 * limit < limit < 0.9 * norms["r0c0"]
    train_epoch(cut, data, batches_of(data, steps=1), EpochSettings(1.0, limit, 0.5))
    assert clipped_norms(cut)["r0c0"] == pytest.approx(limit, rel=1e-3)
    assert clipped_norms(cut)["r0c2"] == pytest.approx(norms["r0c2"], rel=1e-6)


def gradients_by_hand(organism, data, rows, slot):
    """Gradient tensors of one seed and the norm of the host's, from plain autograd."""
    organism.model.train()
    images = (data.train.images[rows].float() - data.mean) / data.deviation
    loss = cross_entropy(organism.model(images), data.train.labels[rows])
    seed = list(organism.model.cell(slot).seed.parameters())
    host = list(organism.model.host.parameters())
    gradients = torch.autograd.grad(loss, [*seed, *host])
    size = sum(p.numel() for p in seed), sum(p.numel() for p in host)
    host_norm = math.sqrt(sum(g.pow(2).sum().item() for g in gradients[len(seed) :]))
    return [g.norm().item() for g in gradients[: len(seed)]], host_norm, *size


def test_gradient_statistics_of_one_step_by_hand(data, grow):
    organism, twin = grow(seed=3, r0c1=(Stage.BLENDING, 0.7)), grow(seed=3, r0c1=(Stage.BLENDING, 0.7))
    batches = batches_of(data, steps=1)
    norms, host_norm, size, host_size = gradients_by_hand(twin, data, batches[0], "r0c1")
    seen = train_epoch(organism, data, batches, EpochSettings(1e-3, 1e-3, 0.5)).gradients["r0c1"]
    total = math.sqrt(sum(norm**2 for norm in norms))
    assert seen.norm == pytest.approx(total, rel=1e-4)  # before clipping
    assert seen.ratio == pytest.approx((total / math.sqrt(size)) / (host_norm / math.sqrt(host_size)), rel=1e-4)
    assert (seen.vanishing, seen.exploding, seen.finite) == (False, False, True)
    assert seen.health == 1.0


def test_gradient_norm_is_the_mean_over_the_steps_of_an_epoch(data, grow):
    """One epoch of eight steps against eight epochs of one step."""
    long, short = grow(seed=3, r0c1=TRAINING), grow(seed=3, r0c1=TRAINING)
    batches = batches_of(data, steps=8)
    norms = [train_epoch(short, data, batch[None], SETTINGS).gradients["r0c1"].norm for batch in batches]
    assert max(norms) > 1.1 * min(norms)
    assert train_epoch(long, data, batches, SETTINGS).gradients["r0c1"].norm == pytest.approx(sum(norms) / 8, rel=1e-4)


def test_at_birth_only_the_output_scale_has_a_gradient(data, grow):
    """A scale of zero blocks conv, norm weight and norm bias: 3 of 4 tensors, health 1 - 0.5 * 3/4."""
    organism = grow(seed=3, r0c1=TRAINING)
    assert len(list(organism.model.cell("r0c1").seed.parameters())) == 4
    seen = train_epoch(organism, data, batches_of(data, steps=1), SETTINGS).gradients["r0c1"]
    assert seen.health == pytest.approx(0.625)
    assert (seen.vanishing, seen.exploding) == (True, False)


def test_an_exploding_seed_is_reported(data, grow):
    organism = grow(seed=3, r0c1=(Stage.BLENDING, 1.0))
    with torch.no_grad():
        organism.model.host.head.weight.mul_(1e4)  # makes the gradient that arrives at the seed enormous
    seen = train_epoch(organism, data, batches_of(data, steps=1), SETTINGS).gradients["r0c1"]
    assert seen.exploding
    assert seen.finite
    assert seen.health < 1.0


def test_a_germinated_seed_has_no_gradient_statistics(data, grow):
    assert train_epoch(grow(r0c1=(Stage.GERMINATED, 0.0)), data, batches_of(data), SETTINGS).gradients == {}


def test_a_frozen_fossil_does_not_change_and_an_unfrozen_one_does(data, grow):
    for frozen in (True, False):
        organism = grow(seed=6, overrides={"growth.freeze_fossils": frozen}, r0c1=(Stage.FOSSILIZED, 1.0))
        before = organism.model.cell("r0c1").seed.scale.detach().clone()
        result = train_epoch(organism, data, batches_of(data), SETTINGS)
        assert torch.equal(organism.model.cell("r0c1").seed.scale, before) is frozen
        assert result.gradients == {}


def loss_if_on(organism, data):
    """Validation loss with the seeds behind the host switched fully on."""
    with torch.no_grad(), organism.model.shadow():
        logits = organism.model(data.normalised(data.validation.images))
    return cross_entropy(logits, data.validation.labels).item()


INCUBATIONS = {
    "loose": {"growth.incubation.method": "straight_through", "growth.incubation.weight": 0.0},
    "bound": {"growth.incubation.method": "straight_through"},
    "shadow": {"growth.incubation.method": "shadow"},
}


def test_incubation_bounds_the_loss_at_full_amplitude(data, grow):
    """Without incubation the loss at full amplitude is far larger."""
    losses = {}
    for name, overrides in INCUBATIONS.items():
        organism = grow(seed=3, blueprint="bottleneck", overrides=overrides, r0c0=TRAINING)
        for epoch in range(4):
            train_epoch(organism, data, batches_of(data, epoch, steps=17, size=64), SETTINGS)
        losses[name] = loss_if_on(organism, data)
    assert losses["bound"] < 2.0 * math.log(10)
    assert losses["shadow"] < 1.1 * math.log(10)
    assert losses["loose"] > 10.0 * losses["bound"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_nonfinite_seed_in_training_does_not_change_the_host(data, grow, value):
    alone, growing = grow(seed=2), grow(seed=2, r0c1=TRAINING)
    with torch.no_grad():
        growing.model.cell("r0c1").seed.scale.fill_(value)
    for epoch in range(2):
        plain = train_epoch(alone, data, batches_of(data, epoch), SETTINGS)
        result = train_epoch(growing, data, batches_of(data, epoch), SETTINGS)
    assert same(host_weights(alone), host_weights(growing))
    assert result.loss == plain.loss
    seen = result.gradients["r0c1"]
    assert not seen.finite
    assert seen.health == 0.0


def test_a_nonfinite_blended_seed_makes_the_loss_nonfinite(data, grow):
    organism = grow(seed=2, r0c1=(Stage.BLENDING, 0.5))
    with torch.no_grad():
        organism.model.cell("r0c1").seed.scale.fill_(math.nan)
    assert not math.isfinite(train_epoch(organism, data, batches_of(data), SETTINGS).loss)


def test_training_does_not_touch_the_global_generator(data, grow):
    organism = grow(seed=2, r0c1=TRAINING)
    before = torch.get_rng_state()
    train_epoch(organism, data, batches_of(data), SETTINGS)
    assert torch.equal(torch.get_rng_state(), before)


def test_half_precision_stays_close_to_full_and_keeps_weights_full(data, grow):
    results = {}
    for precision in ("float32", "bfloat16"):
        organism = grow(seed=2, r0c1=(Stage.BLENDING, 0.5), r0c2=TRAINING)
        settings = EpochSettings(1.0, 1.0, 0.5, precision)
        results[precision] = [train_epoch(organism, data, batches_of(data, epoch), settings) for epoch in range(3)]
        assert {p.dtype for p in organism.model.parameters()} == {torch.float32}
    for full, half in zip(results["float32"], results["bfloat16"], strict=True):
        assert half.loss != full.loss
        assert half.loss == pytest.approx(full.loss, rel=0.05)
        for slot in ("r0c1", "r0c2"):
            assert half.gradients[slot].norm == pytest.approx(full.gradients[slot].norm, rel=0.3)


def test_each_group_uses_its_given_rate(data, grow):
    """A rate of zero leaves a group unchanged, whatever the rate of the other group."""
    for still, moved in (("host", "r0c1"), ("r0c1", "host")):
        organism = grow(seed=2, r0c1=(Stage.BLENDING, 0.5))
        before = {name: [p.clone() for p in organism.optimizer.group(name)] for name in ("host", "r0c1")}
        rows = batches_of(data, steps=2)
        plan = EpochPlan(rows, torch.empty((*rows.shape, 0), dtype=torch.int64))
        Trainer(organism, data, SETTINGS).train(plan, {still: [0.0, 0.0], moved: [0.1, 0.1]})
        for name in (still, moved):
            same_as_before = [
                torch.equal(a, b) for a, b in zip(before[name], organism.optimizer.group(name), strict=True)
            ]
            assert all(same_as_before) is (name == still), name


def test_adamw_learns_and_adapts_to_changes_of_structure(config, data):
    chosen = build(config.model_dump(), {"training.optimizer": "adamw", "training.lr": 0.01, "training.seed_lr": 0.01})
    organism = build_organism(chosen, data, torch.device("cpu"), 1)
    trainer = build_trainer(chosen, organism, data)
    losses = []
    for epoch in range(6):
        if epoch == 2:
            organism.model.germinate("r0c1", "conv_light")
            organism.model.advance("r0c1")
        losses.append(trainer.train(data.plan(0, epoch, 64, 8), learning_rates(chosen, organism, epoch)).loss)
    assert losses[-1] < losses[0] - 0.05
    scale = organism.model.cell("r0c1").seed.scale
    assert set(organism.optimizer.parameter_state(scale)) == {"step", "exp_avg", "exp_avg_sq"}
    twin = build_organism(chosen, data, torch.device("cpu"), 1)
    twin.restore(organism.snapshot())
    restored_trainer = build_trainer(chosen, twin, data)
    plan, rates = data.plan(0, 6, 64, 8), learning_rates(chosen, organism, 6)
    assert restored_trainer.train(plan, rates).loss == trainer.train(plan, rates).loss
    assert same(host_weights(organism), host_weights(twin))


def test_a_training_step_on_text_by_hand(grow_text):
    model, data = grow_text
    optimizer = GrowingOptimizer(model, torch.optim.SGD, lr=0.0)
    plan = data.plan(0, 0, 4, 1)
    starts = (plan.rows[0] * 8 + plan.draws[0, :, 0]).clamp(max=len(data.train.tokens) - 9)
    blocks = torch.stack([data.train.tokens[start : start + 9].long() for start in starts.tolist()])
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for block in model.host.blocks:
        block.attention.dropout = 0.0
    expected = cross_entropy(model.train()(blocks[:, :-1]).flatten(0, 1), blocks[:, 1:].flatten()).item()
    result = Trainer(Organism(model, optimizer), data, SETTINGS).train(plan)
    assert result.loss == pytest.approx(expected, rel=1e-5)
    assert 0.0 <= result.accuracy_pp <= 100.0


def test_keyed_randomness_makes_dropout_a_function_of_its_key():
    device = torch.device("cpu")
    drop, x = torch.nn.Dropout(0.5), torch.ones(100)
    before = torch.get_rng_state()
    outputs = []
    for key in (1, 2, 1):
        with keyed_randomness(key, device):
            outputs.append(drop(x))
    assert torch.equal(outputs[0], outputs[2])
    assert not torch.equal(outputs[0], outputs[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_threads_with_keyed_randomness_draw_the_same_as_alone():
    """Every thread draws the same numbers as alone."""

    def draw(key):
        with keyed_randomness(key, torch.device("cpu")):
            return torch.stack([torch.rand(50) for _ in range(20)])

    alone = [draw(key) for key in range(8)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(draw, range(8)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.nightly)])
def test_compiled_training_equals_eager_and_compiles_each_block_kind_once(config, data, backend, monkeypatch):
    """``aot_eager`` captures the same graphs as ``inductor``, without half a minute of a C++ compiler."""
    compile_with = functools.partial(torch.compile, backend=backend)
    monkeypatch.setattr(
        "esper_ray.tolaria.compilation.torch.compile", lambda f, mode, dynamic: compile_with(f, dynamic=dynamic)
    )

    def life(mode, seed):
        chosen = build(config.model_dump(), {"training.compile_mode": mode})
        organism = build_organism(chosen, data, torch.device("cpu"), seed)
        trainer = build_trainer(chosen, organism, data)
        losses = []
        for epoch in range(4):
            if epoch == 1:
                organism.model.germinate("r0c0", "conv_light")
                organism.model.advance("r0c0")
            losses.append(trainer.train(data.plan(0, epoch, 64, 4)).loss)
        return losses, organism.model

    compiled, model = life("default", 0)
    assert compiled == pytest.approx(life("off", 0)[0], rel=1e-3)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs > 0
    life("default", 1)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs  # the next episode finds all of it
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert model(data.prepared(data.test, 0, 4)[0]).abs().max() > 0
    assert copied.eval()(data.prepared(data.test, 0, 4)[0]).abs().max() == 0  # a copy runs on its own weights
