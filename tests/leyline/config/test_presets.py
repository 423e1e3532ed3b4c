"""Canonical form of shipped presets and sweeps, and the tool that writes it."""

import shutil

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from esper_ray.leyline.config.loading import build, data_folder, merged, preset_names
from esper_ray.leyline.config.presets import canonical, canonical_texts, complete_preset, complete_sweep, main
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.config.sweep import sweep_names

CONFIGS = data_folder("configs")
LEAVES = sorted(RunConfig().flat())


@pytest.fixture
def folder(tmp_path):
    """A copy of the shipped files."""
    return shutil.copytree(CONFIGS, tmp_path / "configs")


def test_shipped_presets_and_sweeps_are_in_canonical_form():
    texts = canonical_texts(CONFIGS)
    differing = [path.name for path, text in texts.items() if path.read_text() != text]
    assert differing == [], "make presets rewrites them"
    assert {path.stem for path in texts} == {*preset_names(), *sweep_names()}


def test_a_missing_key_is_completed_with_its_default_at_its_position(folder, capsys):
    path = folder / "digits.yaml"
    whole = path.read_text()
    path.write_text(whole.replace("  gae_lambda: 0.95\n", "").replace("    bound: 0.25\n", ""))
    assert path.read_text() != whole
    assert main(["--folder", str(folder)]) == 1
    assert capsys.readouterr().out == f"{path}: not in canonical form; --write rewrites it\n"
    assert main(["--folder", str(folder), "--write"]) == 0
    assert path.read_text() == whole
    assert main(["--folder", str(folder)]) == 0


def test_other_order_and_spelling_become_canonical_and_the_comment_stays(folder):
    path = folder / "digits.yaml"
    whole = path.read_text()
    comment = "".join(line for line in whole.splitlines(keepends=True) if line.startswith("#"))
    assert comment.count("\n") == 2
    tree = yaml.safe_load(whole)
    path.write_text(comment + "\n" + yaml.safe_dump(tree, sort_keys=True))
    assert canonical(path, complete_preset) == whole


def test_a_missing_key_of_a_sweep_is_completed_and_all_modes_stay_all(folder):
    path = folder / "sweeps" / "reward_modes.yaml"
    whole = path.read_text()
    assert "reward_modes: all\n" in whole
    path.write_text(whole.replace("  resample: 0.25\n", "").replace("window: 5\n", ""))
    assert canonical(path, complete_sweep) == whole


@pytest.mark.parametrize("line", ["  # a comment", "seed: 1 # a comment", "# a comment"])
def test_a_comment_below_the_first_key_is_refused_with_its_line(folder, line, capsys):
    path = folder / "digits.yaml"
    before = path.read_text() + line + "\n"
    path.write_text(before)
    assert main(["--folder", str(folder), "--write"]) == 2
    place = f"{path}:{before.count(chr(10))}"
    assert capsys.readouterr().err == f"error: {place}: comments belong at the top of the file, got {line.strip()!r}\n"
    assert path.read_text() == before


def test_an_unknown_key_is_refused(folder, capsys):
    path = folder / "digits.yaml"
    path.write_text(path.read_text() + "sead: 1\n")
    assert main(["--folder", str(folder), "--write"]) == 2
    assert "unknown key 'sead'; did you mean 'seed'?" in capsys.readouterr().err


@given(st.sets(st.sampled_from(LEAVES)), st.dictionaries(st.sampled_from(["ppo.lr", "gamma"]), st.floats(1e-9, 1.0)))
def test_any_part_of_a_preset_is_completed_to_its_configuration(tmp_path_factory, dropped, values):
    """Numbers, null and texts such as off round-trip."""
    tree = merged(RunConfig().model_dump(mode="json"), values)
    for key in dropped - values.keys():
        *sections, leaf = key.split(".")
        node = tree
        for section in sections:
            node = node[section]
        del node[leaf]
    path = tmp_path_factory.mktemp("presets") / "a.yaml"
    path.write_text("# A comment.\n" + yaml.safe_dump(tree))
    text = canonical(path, complete_preset)
    assert yaml.safe_load(text) == build(tree).model_dump(mode="json")
    path.write_text(text)
    assert canonical(path, complete_preset) == text
