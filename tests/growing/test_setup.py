"""Set-up of a session: data, slots, policies, optimizer, and what is refused."""

import threading
from dataclasses import replace

import pytest
import torch
from growing_builders import Dropping, Script, Small, Tokens, examples, seeded, vectors, weights_of
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from esper_policies.baselines import SchedulePolicy, StaticPolicy
from esper_policies.bundle import BundleError, pretrained_names
from esper_policies.heuristic import HeuristicPolicy
from esper_ray.growing import grow, setup
from esper_ray.kasmina.network import discovery
from esper_ray.leyline.actions import Blueprint, GerminationStyle
from esper_ray.leyline.config.growth import GrowthConfig
from esper_ray.tolaria.assembly import GrowthError

pytestmark = pytest.mark.integration


def quiet(model, held_out, **options):
    return grow(model, held_out, **({"report": len} | options))


# Held-out examples


@pytest.mark.parametrize("form", ["pair", "batches", "dataset", "loader", "mapping"])
def test_held_out_examples_come_in_five_forms(form):
    x, y = examples()
    data = {
        "pair": (x, y),
        "batches": list(zip(x.split(7), y.split(7), strict=True)),
        "dataset": TensorDataset(x, y),
        "loader": DataLoader(TensorDataset(x, y), batch_size=5),
        "mapping": {"x": x, "labels": y},
    }[form]
    growing = quiet(seeded(Small), data, examples=20, policy="static", epochs=2)
    whole = quiet(seeded(Small), (x[:20], y[:20]), policy="static", epochs=2)
    assert growing.measured.examples == 20
    assert (growing.measured.loss, growing.measured.accuracy_pp) == (whole.measured.loss, whole.measured.accuracy_pp)


class Pair(nn.Module):
    """Two inputs by name, output of two heads."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.body = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 6)
        self.heads = nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 1)])

    def forward(self, a, b, scale=1.0):
        h = torch.relu(self.body(torch.relu(self.left(a) + self.right(b)) * scale))
        return {"class": self.heads[0](h), "value": self.heads[1](h).squeeze(-1)}


def pair_loss(output, targets):
    return nn.functional.cross_entropy(output["class"], targets["class"]) + nn.functional.mse_loss(
        output["value"], targets["value"]
    )


def test_a_model_with_two_inputs_and_two_heads_grows():
    x, y = vectors()
    targets = {"class": y, "value": x.sum(dim=1)}
    data = ({"a": x, "b": -x}, targets)
    growing = quiet(
        seeded(Pair),
        [data],
        loss=pair_loss,
        score=lambda output, t: (output["class"].argmax(dim=1) == t["class"]).float(),
        policy=Script(),
        epochs=8,
        slots={"r0c0": "body"},
        lr=1e-2,
    )
    losses = [float(growing.train_step(data)) for _ in growing for _ in range(5)]
    assert losses[-1] < losses[0]
    assert growing.measured.examples == 24
    assert set(growing.plain()(x, x)) == {"class", "value"}


def test_a_regression_needs_a_loss_alone_and_is_scored_by_it():
    x, _ = vectors()
    y = x.sum(dim=1, keepdim=True)
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)))
    growing = quiet(model, (x, y), loss=nn.functional.mse_loss, policy="static", epochs=10, lr=1e-2)
    first = growing.measured
    for _ in growing:
        for _ in range(10):
            growing.train_step((x, y))
    assert 40.0 < first.accuracy_pp < 70.0  # an example with the mean loss has the score 1 / 2
    assert growing.measured.accuracy_pp > first.accuracy_pp + 10.0
    assert growing.measured.loss < 0.5 * first.loss


def test_sequences_of_tokens_grow_with_the_default_loss():
    tokens = torch.randint(0, 5, (16, 6), generator=torch.Generator().manual_seed(2))
    growing = quiet(seeded(Tokens), (tokens, tokens), epochs=4, policy=Script(), lr=1e-2)
    for _ in growing:
        growing.train_step((tokens, tokens))
    assert [step.blueprint for step in growing.history if step.blueprint] == ["norm"] or growing.history[0].blueprint


# Slots, policies, optimizer


def test_found_slots_are_reported_as_a_table():
    lines = []
    grow(Small(), examples(), policy="static", report=lines.append)
    assert lines == [
        "slots at the ends of the stages of Small (slots= names others):\n"
        "r0c0  first   3 x 8 x 8  images\n"
        "r0c1  second  4 x 4 x 4  images"
    ]
    assert lines[1:] == []
    grow(Small(), examples(), policy="static", slots={"r0c0": "first"}, report=lines.append)
    assert len(lines) == 1


def test_the_default_policy_is_the_heuristic_with_forty_epochs():
    growing = quiet(Small(), examples())
    assert type(growing.policy) is HeuristicPolicy
    assert growing.epochs == 40


@pytest.mark.parametrize(("epochs", "last"), [(12, -1), (20, 5), (40, 20)])
def test_seeds_are_pruned_only_while_another_could_take_their_place(epochs, last):
    """A cooldown of 7 epochs, training, a ramp of 3 and the patience of the policy fit into what is left."""
    growing = quiet(Small(), examples(), epochs=epochs)
    config, gates = growing.policy.config, growing.model.growth.rules.gates
    assert config.last_pruning == last
    assert epochs - last == 7 + gates.min_training_epochs + 3 + config.patience


def test_the_default_number_of_epochs_of_a_bundle_is_that_of_its_training(bundle):
    growing = quiet(Small(), examples(), policy=bundle)
    assert growing.epochs == 20


@pytest.mark.parametrize(("name", "kind"), [("static", StaticPolicy), ("schedule", SchedulePolicy)])
def test_policies_have_names(name, kind):
    assert type(quiet(Small(), examples(), policy=name).policy) is kind


def test_a_schedule_is_read_from_a_file(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("- {epoch: 1, op: germinate, slot: 1, blueprint: norm}\n")
    x, y = examples()
    growing = quiet(Small(), (x, y), policy=f"schedule:{path}", epochs=5)
    for _ in growing:
        growing.train_step((x, y))
    assert [(step.operation, step.slot) for step in growing.history] == [
        ("WAIT", None),
        ("GERMINATE", "r0c1"),
        ("WAIT", None),
        ("WAIT", None),
        ("WAIT", None),
    ]


def test_the_bundle_that_ships_is_loaded_by_name():
    assert pretrained_names() == ["tamiyo"]
    growing = quiet(Small(), examples(), policy="tamiyo", epochs=1)
    assert type(growing.policy).__name__ == "LearnedPolicy"
    assert growing.limits.blueprints == {
        Blueprint.NORM,
        Blueprint.CONV_LIGHT,
        Blueprint.DEPTHWISE,
        Blueprint.BOTTLENECK,
    }


def test_the_optimizer_is_adamw_with_rate_a_thousandth_unless_options_are_given():
    assert quiet(Small(), examples()).optimizer.description == "AdamW(lr=0.001)"
    growing = quiet(
        Small(),
        examples(),
        optimizer=torch.optim.SGD,
        lr=0.1,
        momentum=0.9,
        groups=lambda name, parameter: {"weight_decay": 0.5} if parameter.ndim > 1 else {},
    )
    assert growing.optimizer.description == "SGD(lr=0.1, momentum=0.9)"
    decays = {group["weight_decay"] for group in growing.optimizer.param_groups if group["params"]}
    assert decays == {0.0, 0.5}


def test_growth_rules_change_by_a_mapping_or_a_section():
    growing = quiet(Small(), examples(), growth={"min_training_epochs": 7, "blueprints": ["norm"]})
    assert growing.model.growth.rules.gates.min_training_epochs == 7
    assert growing.limits.blueprints == {Blueprint.NORM}
    section = quiet(Small(), examples(), growth=GrowthConfig(blueprints=("conv_light",)))
    assert section.limits.blueprints == {Blueprint.CONV_LIGHT}


def test_seeds_of_a_session_start_as_its_growth_says():
    default = quiet(Small(), examples()).model.growth.options.initialisation
    assert set(default.values()) == {"zero_output"}
    section = quiet(Small(), examples(), growth=GrowthConfig()).model.growth.options.initialisation
    assert set(section.values()) == {"zero_scale"}
    changed = quiet(Small(), examples(), growth={"initialisation": {"linear_add": "zero_output"}}).model.growth.options
    assert changed.initialisation[GerminationStyle.LINEAR_ADD] == "zero_output"
    assert changed.initialisation[GerminationStyle.SIGMOID_ADD] == "zero_scale"


def test_slots_of_two_topologies_get_the_blueprints_of_both():
    class Mixed(Small):
        def __init__(self):
            super().__init__()
            self.middle = nn.Linear(4, 4)

        def forward(self, x):
            return self.head(torch.relu(self.middle(self.second(self.first(x)).mean(dim=(2, 3)))))

    growing = quiet(Mixed(), examples(), slots={"r0c0": "second", "r0c1": "middle"})
    assert growing.limits.blueprints == {Blueprint.NORM}


# Bad input


class Listing(Small):
    def forward(self, x):
        return [super().forward(x)]


class Texts(Small):
    def forward(self, x):
        return str(super().forward(x))


class Locked(Small):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class Nothing(nn.Module):
    def forward(self, x):
        return x


def one_head():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


@pytest.mark.parametrize(
    ("model", "data", "options", "message"),
    [
        (Small, lambda x, y: (x, y[:3]), {}, "24 inputs and 3 targets"),
        (Small, lambda x, y: [], {}, "at least 1 held-out example, got 0; is the loader empty"),
        (Small, lambda x, y: (x[:0], y[:0]), {}, "at least 1 held-out example, got 0"),
        (Small, lambda x, y: (x, y + 3), {}, r"0\.\.2, the classes of the model; got 3\.\.5"),
        (Small, lambda x, y: (x, y[:, None].expand(-1, 2)), {}, r"float32 \(2, 3\) and targets of int64 \(2, 2\)"),
        (Small, lambda x, y: (x, y.float()), {}, r"float32 \(2, 3\) and targets of float32 \(2,\).* pass loss="),
        (Small, lambda x, y: (x.repeat(1, 2, 1, 1), y), {}, r"Small cannot run on held-out inputs of shape \(2, 2, 8"),
        (Small, lambda x, y: (x * float("nan"), y), {}, "held-out inputs must be finite, got nan"),
        (Small, lambda x, y: x, {}, "a pair .inputs, targets., a Dataset or a DataLoader, got a Tensor"),
        (
            Small,
            lambda x, y: [(x, y, y)],
            {},
            "a pair .inputs, targets. or a mapping of named inputs, got a tuple of 3",
        ),
        (Small, lambda x, y: (x, y), {"epochs": 0}, "epochs must be at least 1, a whole number, got 0"),
        (Small, lambda x, y: (x, y), {"examples": 0}, "examples must be at least 1, got 0"),
        (Small, lambda x, y: (x, y), {"slots": {"r0c0": "third"}}, "unknown submodule 'third'"),
        (Small, lambda x, y: (x, y), {"policy": "heuristics"}, "unknown policy 'heuristics'"),
        (Small, lambda x, y: (x, y), {"policy": 3}, "begin_episode and decide, got a int"),
        (Small, lambda x, y: (x, y), {"growth": {"blueprint": ["norm"]}}, "unknown key of growth 'blueprint'"),
        (
            Small,
            lambda x, y: (x, y),
            {"growth": {"initialisation": {"sigmoid_add": "gradmax"}}},
            r"growth\.initialisation\.sigmoid_add: gradmax needs a loss at birth.* take zero_scale or zero_output",
        ),
        (Small, lambda x, y: (x, y), {"growth": {"blueprints": ["lora"]}}, "images, which have no blueprint 'lora'"),
        (Small, lambda x, y: (x, y), {"momentum": 0.9}, "momentum"),
        (
            Small,
            lambda x, y: (x, y),
            {"loss": lambda output, target: nn.functional.cross_entropy(output, target, reduction="none")},
            r"loss must be a floating-point scalar tensor, got float32 \(2,\); reduce it",
        ),
        (
            Small,
            lambda x, y: (x, y),
            {"score": lambda output, target: output[:, 0] + 9.0},
            r"scores must lie in \[0, 1\]",
        ),
        (Listing, lambda x, y: (x, y), {}, r"Listing on held-out inputs of shape \(2, 1, 8, 8\).* pass loss="),
        (Texts, lambda x, y: (x, y), {}, r"Texts on held-out inputs of shape .* an output of type str.* pass loss="),
        (Locked, lambda x, y: (x, y), {}, "plain.. copies Locked, which fails: .*lock.* give it a __deepcopy__ method"),
        (lambda: torch.compile(Small(), backend="eager"), lambda x, y: (x, y), {}, "OptimizedModule is compiled by"),
        (Small, lambda x, y: (x, y), {"epochs": 2.5}, "a whole number, got 2.5"),
        (Small, lambda x, y: (x, y), {"clip": -1.0}, "clip must be above 0, or None for no limit, got -1"),
        (
            Small,
            lambda x, y: (x, y),
            {"optimizer": torch.optim.SGD([torch.zeros(1)])},
            "optimizer must be a class such as torch.optim.AdamW, got a SGD; its options are named beside it",
        ),
        (
            Small,
            lambda x, y: (x, y),
            {"growth": {"min_training_epochs": -3}},
            r"^growth.min_training_epochs: Input should be greater than or equal to 0 \(got -3\)$",
        ),
        (Small, lambda x, y: (x, y), {"report": None}, "'NoneType' object is not callable"),
        (Nothing, lambda x, y: (x, y), {}, "Nothing has no parameters to train"),
        (one_head, lambda x, y: (x, y), {}, "no submodule of Sequential yields .* name the slots"),
    ],
)
def test_invalid_arguments_are_refused_and_the_model_is_untouched(model, data, options, message):
    model = model()
    before, mode = weights_of(model), [module.training for module in model.modules()]
    with pytest.raises((ValueError, TypeError), match=message):
        quiet(model, data(*examples()), **options)
    assert weights_of(model) == before
    assert [module.training for module in model.modules()] == mode
    assert not any(module._forward_hooks for module in model.modules())
    if type(model) is Small:
        quiet(model, examples(), policy="static")  # a second attempt succeeds


def test_weights_without_finite_values_are_refused():
    with pytest.raises(ValueError, match=r"parameter 'first.*' is on the meta device, without values; load or init"):
        quiet(Small().to("meta"), examples())
    model = Small()
    nn.init.constant_(model.second.weight, float("nan"))
    with pytest.raises(ValueError, match="the loss of Small on the held-out examples is nan before any training"):
        quiet(model, examples())
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ValueError, match=r"model must be a torch.nn.Module, got the class Small"):
        quiet(Small, examples())


def test_features_outside_a_bundle_are_refused_and_the_model_is_untouched(bundle):
    model, tokens = Tokens(), torch.zeros(8, 6, dtype=torch.long)
    with pytest.raises(BundleError, match=r"learned to grow on images .* but r0c0 has sequences"):
        quiet(model, (tokens, tokens), policy=bundle, slots={"r0c0": "block"})
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ValueError, match="no submodule of Tokens yields images"):
        quiet(model, (tokens, tokens), policy=bundle)


def test_a_growth_error_after_the_slots_leaves_no_slots():
    model = seeded(Dropping)
    with pytest.raises(GrowthError):
        quiet(model, vectors(), growth=GrowthConfig(blueprints=("conv_light",)))
    assert not any(module._forward_hooks for module in model.modules())


def test_a_second_growth_of_a_model_is_refused_and_the_first_one_keeps_its_seeds():
    model = seeded(Small)
    growing = quiet(model, examples(), policy="static", slots={"r0c0": "first"})
    hooks = [dict(module._forward_hooks) for module in model.modules()]
    for slots in (None, {"r0c0": "first"}):
        with pytest.raises(ValueError, match="the host has slots already; wrap a fresh copy of it"):
            quiet(model, examples(), slots=slots)
    assert [dict(module._forward_hooks) for module in model.modules()] == hooks
    assert growing.model.germinate("r0c0", "norm")


def test_found_slots_are_attached_once(monkeypatch):
    calls, once = [], discovery.attach
    monkeypatch.setattr(discovery, "attach", lambda *args, **options: calls.append(args) or once(*args, **options))
    monkeypatch.setattr(setup, "attach", lambda *args, **options: pytest.fail("attached again"))
    quiet(Small(), examples(), policy="static")
    assert len(calls) == 1


def test_a_policy_of_a_mix_chooses_among_the_blueprints_that_fit_the_slots(bundle):
    """It has learned blueprints of images and of sequences; `lora` exists for sequences alone."""
    growth = bundle.manifest.growth.model_copy(update={"blueprints": ("norm", "lora", "conv_light")})
    manifest = bundle.manifest.model_copy(update={"growth": growth})
    growing = quiet(Small(), examples(), policy=replace(bundle, manifest=manifest), epochs=1)
    assert growing.limits.blueprints == {Blueprint.NORM, Blueprint.CONV_LIGHT}
