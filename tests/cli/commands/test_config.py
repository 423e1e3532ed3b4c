"""``esper config`` and ``esper version``."""

import json

import yaml

import esper_ray
from esper_ray.leyline.config.loading import build, preset_names, read_preset
from esper_ray.leyline.config.run import RunConfig


def test_show_prints_a_configuration_that_can_be_loaded_again(esper, tmp_path):
    answer = esper("config", "show", "--preset", "digits", "--set", "ppo.lr=1e-3", "--set", "growth.slots=[r0c2]")
    assert (answer.code, answer.err) == (0, "")
    expected = build(read_preset("digits"), {"ppo.lr": 1e-3, "growth.slots": ["r0c2"]})
    assert RunConfig.model_validate(yaml.safe_load(answer.out)) == expected
    assert answer.out.splitlines()[-1] == f"# sha256 {expected.digest()}"
    (tmp_path / "mine.yaml").write_text(answer.out)
    assert esper("config", "show", "--config", tmp_path / "mine.yaml").out == answer.out
    assert esper("config", "show", "--config-json", tmp_path / "mine.yaml").out == answer.out


def test_show_without_a_preset_prints_the_default_one(esper):
    assert esper("config", "show").out == esper("config", "show", "--preset", "digits").out


def test_values_are_parsed_with_their_types(esper):
    flags = ("ppo.lr=1e-3", "ppo.rounds=5", "growth.freeze_fossils=true", "name=1e5x", "task.data_dir=null")
    shown = yaml.safe_load(esper("config", "show", *(part for flag in flags for part in ("--set", flag))).out)
    assert (shown["ppo"]["lr"], shown["ppo"]["rounds"]) == (0.001, 5)
    assert shown["growth"]["freeze_fossils"] is True
    assert shown["name"] == "1e5x"
    assert shown["task"]["data_dir"] is None


def test_schema_prints_json_with_every_section(esper):
    tree = json.loads(esper("config", "schema").out)
    assert tree["properties"].keys() == {"preset", *RunConfig.model_fields}
    assert tree["properties"]["preset"]["enum"] == preset_names()
    assert tree["anyOf"] == [{"required": ["preset"]}, {"required": list(RunConfig.model_fields)}]
    assert "discount" in tree["properties"]["gamma"]["description"]
    assert tree["additionalProperties"] is False


def test_presets_are_printed_one_per_line(esper):
    answer = esper("config", "presets")
    assert "digits" in answer.out.splitlines()
    assert all(build(read_preset(name)) for name in answer.out.splitlines())


def test_verbose_version_prints_the_versions_of_dependencies(esper):
    assert esper("version").out == f"esper-ray {esper_ray.__version__}\n"
    verbose = esper("version", "--verbose").out.splitlines()
    assert verbose[0] == f"esper-ray {esper_ray.__version__}"
    assert any(line.startswith("torch 2") for line in verbose)
