"""Shipped presets: complete, named like their files, with the host and slots of their names."""

import pytest

from esper_ray.kasmina.hosts import CNN_VARIANTS
from esper_ray.leyline.config.host import TransformerHostConfig
from esper_ray.leyline.config.loading import build, preset_names, read_preset
from esper_ray.leyline.config.run import RunConfig, flatten

THREE = ("r0c0", "r0c1", "r0c2")
FIVE = (*THREE, "r0c3", "r0c4")
POOLED = ("r1c0", "r1c1", "r1c2")
TEN = (*FIVE, *POOLED, "r1c3", "r1c4")
SLOTS = {
    "cifar_baseline": THREE,
    "cifar_scale": FIVE,
    "cifar_impaired": THREE,
    "cifar_minimal": THREE,
    "cifar_multichannel": (*THREE, *POOLED),
    "cifar_postpool": POOLED,
    "cifar_highres": THREE,
    "cifar_deep_multichannel": TEN,
    "cifar_deep_impaired": TEN,
}


def sections(tree, prefix=""):
    """The keys in the documented order."""
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from sections(value, f"{prefix}{key}.")


def test_there_is_a_preset_for_every_cifar_host_and_every_other_task():
    assert sorted(SLOTS) == sorted(CNN_VARIANTS)
    assert set(preset_names()) >= {*SLOTS, "digits", "digits_long", "patterns", "text", "tinystories"}


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_complete_and_named_like_its_file(name):
    tree = read_preset(name)
    config = build(tree)
    assert config.name == name
    whole = RunConfig(host={"family": config.host.family}, growth={"slots": config.host.available_slots()[:1]})
    assert set(flatten(tree)) == set(whole.flat()), "a key is missing"
    assert list(sections(tree)) == list(sections(whole.model_dump(mode="json"))), "the order is that of the schema"


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_of_a_task_trains_on_it(name):
    assert build(read_preset(name)).task.name == name.removesuffix("_long")


@pytest.mark.parametrize("name", sorted(SLOTS))
def test_cifar_presets_have_the_host_of_their_name_and_its_slots(name):
    config = build(read_preset(name))
    assert config.host == CNN_VARIANTS[name].model_copy(update={"memory_format": "channels_last"})  # faster everywhere
    assert config.growth.slots == SLOTS[name]
    assert config.growth.max_seeds == (4 if len(SLOTS[name]) > 3 else 0)  # up to four are attributed exactly
    assert (config.task.validation_size, config.task.test_size, config.task.augment) == (5000, 10000, True)
    assert (config.training.batch_size, config.training.steps_per_epoch) == (512, 24)


@pytest.mark.parametrize(("name", "budget"), [("cifar_postpool", 300_000), ("cifar_deep_impaired", 750_000)])
def test_large_and_small_hosts_have_their_own_budgets(name, budget):
    assert build(read_preset(name)).reward.param_budget == budget
    assert build(read_preset("cifar_baseline")).reward.param_budget == 500_000


@pytest.mark.parametrize(("name", "width", "context"), [("text", 64, 128), ("tinystories", 384, 256)])
def test_text_presets_fill_the_context_of_their_transformer(name, width, context):
    config = build(read_preset(name))
    assert isinstance(config.host, TransformerHostConfig)
    assert (config.host.embedding, config.host.context, config.task.block_size) == (width, context, context)
    assert config.growth.slots == THREE
