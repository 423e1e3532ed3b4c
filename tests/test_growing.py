"""Growth in a user's training loop."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from esper_policies.bundle import BundleError, BundleManifest, PolicyBundle, Provenance, policy_observation
from esper_policies.network import PolicyNetwork
from esper_ray.environment import MorphogenesisEnv
from esper_ray.growing import grow
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.stages import Stage
from esper_ray.tolaria.assembly import build_organism, derived_seed

pytestmark = pytest.mark.integration

SETTINGS = {
    "episode_length": 20,
    "task.validation_size": 80,
    "training.steps_per_epoch": 2,
    "training.batch_size": 32,
    "training.host_grad_clip": 1e9,
    "training.seed_grad_clip": 1e9,
    "growth.incubation.share": 1.0,
    "growth.min_training_epochs": 2,
    "growth.min_gradient_health": 0.0,
    "growth.embargo_ticks": 1,
    "policy.feature_size": 16,
    "policy.memory_size": 16,
    "policy.wait_logit": -1.0,
}
SEED = 5


@pytest.fixture(scope="module")
def config():
    return build(read_preset("digits"), SETTINGS)


@pytest.fixture(scope="module")
def bundle(config):
    """Untrained policy whose choices depend on the view."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        network = PolicyNetwork(config.policy)
    with torch.no_grad():
        for layer, _ in network._final_layers():
            layer.weight.mul_(60.0)
    provenance = Provenance(
        run="r", round=1, config_sha256="", task="digits", reward="basic", episode_length=20, package="0"
    )
    manifest = BundleManifest(
        observation=policy_observation(),
        actions=(),
        topologies=(Topology.IMAGES,),
        growth=config.growth,
        policy=config.policy,
        parameters=0,
        weights_sha256="",
        provenance=provenance,
    )
    return PolicyBundle(manifest, network.state_dict())


@pytest.fixture(scope="module")
def env(config):
    return MorphogenesisEnv(config)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU())
        self.pool = nn.MaxPool2d(2)
        self.second = nn.Conv2d(3, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.relu(self.second(self.pool(self.first(x)))).mean(dim=(2, 3)))


def examples(count=24):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 1, 8, 8, generator=generator), torch.randint(0, 3, (count,), generator=generator)


def train_once(growing, x, y, incubate=True):
    growing.optimizer.zero_grad()
    cross_entropy(growing.model(x), y).backward()
    if incubate:
        growing.model.incubate(lambda: cross_entropy(growing.model(x), y))
    growing.optimizer.step()


def test_growth_in_a_users_loop_equals_growth_in_the_environment(config, bundle, env):
    """Same host, batches and policy: same actions and accuracies."""
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
        host={"lr": 0.05, "momentum": 0.9, "weight_decay": config.training.weight_decay, "foreach": True},
        seeds={"weight_decay": 0.0},
        seed=derived_seed(SEED, 2),
    )
    seen = []
    for step in growing:
        plan = data.plan(derived_seed(SEED, 1), step.epoch, 32, 2)
        for rows, draws in zip(plan.rows, plan.draws, strict=True):
            train_once(growing, *data.training_batch(rows, draws))
        seen.append((step.operation, step.slot, step.success, step.val_accuracy_pp))
    assert len({operation for operation, *_ in seen}) >= 3, "the episode needs at least three operations"
    assert seen == expected
    assert growing.measured.accuracy_pp == env.measured.accuracy_pp


@pytest.mark.filterwarnings("ignore:plain.. leaves out the seed")  # which lives when the episode ends
def test_the_grown_model_exports_to_an_ordinary_module(bundle):
    x, y = examples()
    growing = grow(Small(), (x, y), policy=bundle, epochs=6)
    for _ in growing:
        train_once(growing, x, y)
    assert growing.epoch == len(growing.history) == 6
    plain = growing.model.plain().eval()
    assert plain(x).shape == (24, 3)
    assert type(plain).__module__ != "esper_ray.kasmina.model"


def test_slots_are_found_by_the_topologies_of_the_policy(bundle):
    growing = grow(Small(), examples(), policy=bundle, epochs=1)
    assert {slot: a.module for slot, a in growing.model.attachments.items()} == {"r0c0": "first", "r0c1": "second"}


def test_the_default_number_of_epochs_is_that_of_the_policys_training(bundle):
    assert grow(Small(), examples(), policy=bundle).epochs == 20


def test_held_out_examples_are_tensors_or_batches(bundle):
    x, y = examples()
    whole = grow(Small(), (x, y), policy=bundle, examples=20)
    batches = grow(Small(), list(zip(x.split(7), y.split(7), strict=True)), policy=bundle, examples=20)
    for growing in (whole, batches):
        assert growing.measured.examples == 20
        assert torch.equal(growing.runtime.health._data.inputs, x[:20])
        assert torch.equal(growing.runtime.health._data.targets, y[:20])


def test_an_epoch_without_a_step_of_the_optimizer_is_an_error(bundle):
    with pytest.raises(RuntimeError, match=r"epoch 0 had 0 steps of growing\.optimizer"):
        list(grow(Small(), examples(), policy=bundle))


def test_a_seed_without_incubation_gradient_causes_a_warning(bundle):
    x, y = examples()
    growing = grow(Small(), (x, y), policy=bundle, epochs=20)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in growing:
            train_once(growing, x, y, incubate=False)
    stages = {state.stage for state in growing.model.states.values() if state is not None}
    assert Stage.TRAINING in stages or caught, "no seed was ever in training"
    assert any("call growing.model.incubate" in str(w.message) for w in caught)


def test_a_nonfinite_network_is_restored(bundle):
    x, y = examples()
    growing = grow(Small(), (x, y), policy=bundle, epochs=4)
    for step in growing:
        train_once(growing, x, y)
        if step.epoch == 1:
            healthy = {name: tensor.clone() for name, tensor in growing.runtime.health.trusted.organism.tensors.items()}
            with torch.no_grad():
                growing.model.host.head.weight.fill_(float("nan"))
        if step.epoch == 2:
            assert step.restored == "validation loss is not finite"
            break
    assert all(torch.equal(healthy[name], growing.runtime.health.trusted.organism.tensors[name]) for name in healthy)
    assert torch.isfinite(growing.model(x)).all()


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 8)
        self.block = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(torch.relu(self.block(self.embed(x))))


def test_features_outside_the_policy_are_refused_without_changing_the_model(bundle):
    model, tokens = Tokens(), torch.zeros(8, 6, dtype=torch.long)
    with pytest.raises(BundleError, match=r"learned to grow on images .* but r0c0 has sequences"):
        grow(model, (tokens, tokens), policy=bundle, slots={"r0c0": "block"})
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ValueError, match="no submodule of Tokens yields images"):
        grow(model, (tokens, tokens), policy=bundle)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (lambda x, y: (x, y[:3]), {}, "24 inputs and 3 targets"),
        (lambda x, y: [], {}, "got 0 in data"),
        (lambda x, y: (x[:0], y[:0]), {}, "got 0 in data"),
        (lambda x, y: (x, y + 3), {}, r"0\.\.2, the classes of the model; got 3\.\.5"),
        (lambda x, y: (x, y[:, None].expand(-1, 2)), {}, r"logits of shape \(2, 2, 'classes'\).*got \(2, 3\)"),
        (lambda x, y: (x, y), {"epochs": 0}, "at least 1, got 0"),
        (lambda x, y: (x, y), {"slots": {"r0c0": "third"}}, "unknown submodule 'third'"),
    ],
)
def test_invalid_arguments_are_refused_with_the_value(bundle, data, options, message):
    with pytest.raises(ValueError, match=message):
        grow(Small(), data(*examples()), policy=bundle, **options)
