"""Loading of presets and configuration files, and merging of overrides."""

import json
import os
import time

import pytest

from esper_ray.leyline.config.loading import (
    ConfigError,
    build,
    build_complete,
    data_folder,
    explained,
    leaf_keys,
    merged,
    nested,
    preset_names,
    read_file,
    read_preset,
)
from esper_ray.leyline.config.run import flatten


def test_there_are_presets_and_digits_is_one_of_them():
    assert "digits" in preset_names()
    assert preset_names() == sorted(path.stem for path in data_folder("configs").iterdir() if path.suffix == ".yaml")


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_spells_out_every_key(name):
    tree = read_preset(name)
    config = build_complete(tree)
    empty = {"reward.options", "task_mix", "task_mix_dirs"}  # mappings without leaves
    assert tree["reward"]["options"] == tree["task_mix"] == tree["task_mix_dirs"] == {}
    assert set(flatten(tree)) == set(config.flat()) == set(leaf_keys(tree)) - empty
    assert config.name == name


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_equal_to_its_loaded_configuration(name):
    tree = read_preset(name)
    assert flatten(tree) == build(tree).flat()


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown preset 'digit'; did you mean 'digits'"):
        read_preset("digit")


def test_overrides_have_precedence_over_presets_and_presets_over_defaults():
    config = build(read_preset("digits"), {"episode_length": 3, "training.lr": 0.125})
    assert (config.episode_length, config.training.lr) == (3, 0.125)
    assert build({}).reward.param_budget == 500_000
    assert config.reward.param_budget == 2000


def test_validation_runs_on_the_merged_tree_only():
    tree = {"host": {"blocks": 2, "pools": 3}, "growth": {"slots": ["r0c1"]}}
    with pytest.raises(ConfigError, match="must not exceed blocks"):
        build(tree)
    assert build(tree, {"host.pools": 1}).host.pools == 1


def test_merging_does_not_change_the_tree():
    tree = {"training": {"lr": 0.1}, "seed": 1}
    result = merged(tree, {"training.lr": 0.5, "growth.incubation.bound": 0.75, "seed": 2})
    assert result == {"training": {"lr": 0.5}, "growth": {"incubation": {"bound": 0.75}}, "seed": 2}
    assert tree == {"training": {"lr": 0.1}, "seed": 1}


def test_an_override_below_a_leaf_is_refused():
    with pytest.raises(ConfigError, match=r"'seed' must hold a mapping to set 'seed\.low', got 1"):
        merged({"seed": 1}, {"seed.low": 2})


def test_a_mapping_is_layered_over_its_section():
    config = build(read_preset("digits"), {"ppo": {"lr": 0.125}, "growth.incubation": {"bound": 0.5}})
    digits = build(read_preset("digits"))
    assert config.ppo == digits.ppo.model_copy(update={"lr": 0.125})
    assert config.growth.incubation == digits.growth.incubation.model_copy(update={"bound": 0.5})


def test_two_values_for_one_key_are_refused_and_one_value_twice_is_not():
    assert nested({"a.b": 1, "a": {"b": 1, "c": 2}}) == {"a": {"b": 1, "c": 2}}
    with pytest.raises(ConfigError, match=r"'a\.b' is given twice, as 1 and as 2"):
        nested({"a.b": 1, "a": {"b": 2}})
    with pytest.raises(ConfigError, match=r"'a\.b' is given twice, as 1 and as True"):
        nested({"a.b": 1, "a": {"b": True}})


def test_a_host_of_another_family_replaces_the_host_and_must_be_complete():
    mlp = {"family": "mlp", "width": 8, "blocks": 3, "expansion": 2, "dropout": 0.0}
    host = build_complete(read_preset("digits"), None, {"host": mlp}).host
    assert host.model_dump() == mlp
    with pytest.raises(ConfigError, match=r"not complete: host\.blocks, host\.expansion, host\.dropout are missing$"):
        build_complete(read_preset("digits"), None, {"host.family": "mlp", "host.width": 8})


def test_a_tree_with_every_key_is_complete_and_one_without_a_key_is_not():
    tree = read_preset("digits")
    assert build_complete(tree) == build(tree)
    del tree["growth"]["incubation"]["bound"]
    with pytest.raises(ConfigError, match=r"is not complete: growth\.incubation\.bound is missing"):
        build_complete(tree, None, {"growth.incubation.bound": 0.25})


def test_a_key_that_the_writer_did_not_know_has_its_default():
    tree = read_preset("digits")
    written = json.loads(json.dumps(tree))
    del tree["ppo"]["schedule_rounds"], tree["seed"], written["ppo"]["schedule_rounds"]
    with pytest.raises(ConfigError, match=r"is not complete: seed is missing$"):
        build_complete(tree, written=written)
    assert build_complete(tree | {"seed": 1}, written=written) == build(read_preset("digits"), {"seed": 1})


def test_an_unknown_key_is_named_before_missing_ones():
    with pytest.raises(ConfigError, match=r"^unknown key 'prpo'; did you mean 'ppo'\?$"):
        build_complete({"prpo": {"lr": 1.0}})


def test_a_dotted_key_in_a_file_is_refused_with_the_section_to_write():
    with pytest.raises(ConfigError, match=r"unknown key 'ppo\.lr': write it as a section, ppo: \{lr: \.\.\.\}"):
        build_complete({"ppo.lr": 1.0})


def test_a_problem_has_file_and_line_unless_a_key_over_the_file_causes_it(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text((data_folder("configs") / "digits.yaml").read_text().replace("gamma: 0.995", "gamma: 2.0"))
    line = path.read_text().splitlines().index("gamma: 2.0") + 1
    file = read_file(path)
    with pytest.raises(ConfigError) as caught:
        build_complete(file.tree, file, {"ppo.lr": -1.0})
    first, second = str(caught.value).splitlines()
    assert first == f"{path}:{line}: gamma: Input should be less than or equal to 1 (got 2.0)"
    assert second == "ppo.lr: Input should be greater than 0 (got -1.0)"


def test_the_number_of_problems_in_a_message_is_bounded():
    lines = explained(f"problem {number}" for number in range(50)).splitlines()
    assert (len(lines), lines[-1]) == (21, "and 30 more problems")


@pytest.mark.parametrize("value", [10**5000, "x" * 10**6, [1] * 10**6], ids=["integer", "text", "list"])
def test_a_large_value_is_shortened_in_its_message(value):
    with pytest.raises(ConfigError) as caught:
        build({}, {"ppo.rounds": value})
    assert len(str(caught.value)) < 300


def test_a_section_that_is_no_mapping_is_refused():
    with pytest.raises(ConfigError, match=r"training: .*\(got 5\)"):
        build({"training": 5})


def test_yaml_and_json_files_read_alike(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 9\ntraining:\n  lr: 0.25\n", encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps({"seed": 9, "training": {"lr": 0.25}}), encoding="utf-8")
    yaml_file, json_file = read_file(tmp_path / "a.yaml"), read_file(tmp_path / "a.json")
    assert yaml_file.tree == json_file.tree == {"seed": 9, "training": {"lr": 0.25}}
    assert yaml_file.lines == {"seed": 1, "training": 2, "training.lr": 3}
    assert yaml_file.place("training.momentum") == f"{tmp_path}/a.yaml:2"
    assert yaml_file.place("gamma") == f"{tmp_path}/a.yaml"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", b"seed: [1", "cannot parse configuration .*a.yaml"),
        ("a.json", b"{'seed': 1}", "cannot parse configuration .*a.json"),
        ("a.json", b"[1, 2]", "must hold a mapping, got list"),
        ("a.yaml", b"", "must hold a mapping, got nothing"),
        ("a.yaml", b"a\n\xff\xfa", "cannot parse configuration .*a.yaml:2: byte 0xff is not UTF-8"),
        ("a.yaml", b"!!python/object/apply:os.getcwd []", "cannot parse configuration .*a.yaml:1: tags such as"),
    ],
)
def test_a_file_without_a_configuration_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_file(tmp_path / name)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/proc/self", "fifo", "large.yaml", "NUL\0"])
def test_what_is_no_small_file_is_refused_at_once(tmp_path, path):
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(5 * 2**30)
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"^cannot read configuration [^\n]*$"):
        read_file(tmp_path / path)
    assert time.monotonic() - began < 1


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read configuration .*none\.yaml"):
        read_file(tmp_path / "none.yaml")


def test_a_folder_that_the_installation_lacks_is_an_error():
    with pytest.raises(FileNotFoundError, match="no folder 'nowhere'"):
        data_folder("nowhere")
