"""Loading of presets and configuration files, and merging of overrides."""

import json

import pytest

from esper_ray.leyline.config.loading import (
    ConfigError,
    build,
    data_folder,
    merged,
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
    config = build(tree)
    assert set(flatten(tree)) == set(config.flat())
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


def test_a_section_that_is_no_mapping_is_refused():
    with pytest.raises(ConfigError, match=r"training: .*\(got 5\)"):
        build({"training": 5})


def test_yaml_and_json_files_read_alike(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 9\ntraining:\n  lr: 0.25\n", encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps({"seed": 9, "training": {"lr": 0.25}}), encoding="utf-8")
    assert read_file(tmp_path / "a.yaml") == read_file(tmp_path / "a.json") == {"seed": 9, "training": {"lr": 0.25}}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", b"seed: [1", "cannot parse configuration .*a.yaml"),
        ("a.json", b"{'seed': 1}", "cannot parse configuration .*a.json"),
        ("a.json", b"[1, 2]", "must hold a mapping, got list"),
        ("a.yaml", b"", "must hold a mapping, got NoneType"),
        ("a.yaml", b"\xff\xfe\xfa", "cannot read configuration .*a.yaml"),
        ("a.yaml", b"!!python/object/apply:os.getcwd []", "cannot parse configuration"),
    ],
)
def test_a_file_without_a_configuration_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_file(tmp_path / name)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read configuration .*none\.yaml"):
        read_file(tmp_path / "none.yaml")


def test_a_folder_that_the_installation_lacks_is_an_error():
    with pytest.raises(FileNotFoundError, match="no folder 'nowhere'"):
        data_folder("nowhere")
