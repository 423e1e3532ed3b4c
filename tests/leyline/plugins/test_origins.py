"""The packages of a run's own parts, as manifests record them."""

import pytest
from plugin_builders import install_examples

from esper_ray.leyline.config.loading import build, build_complete
from esper_ray.leyline.plugins.entry_points import PluginError
from esper_ray.leyline.plugins.origins import check_origins, origins, recorded_origins

OWN = {
    "reward.mode": "frugal",
    "host": {"family": "own", "build": "residual"},
    "growth.blueprints": {"conv_light": "dilated"},
}
ROWS = [
    {"kind": "reward", "name": "frugal", "package": "own-reward", "version": "0.1.0"},
    {"kind": "host", "name": "residual", "package": "own-host", "version": "0.1.0"},
    {"kind": "blueprint", "name": "dilated", "package": "own-blueprint", "version": "0.1.0"},
]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The three examples, installed."""
    install_examples(tmp_path / "site", monkeypatch)


def test_a_run_of_built_in_parts_records_none():
    assert recorded_origins(build({})) == {}


def test_the_parts_of_a_run_are_recorded_with_package_and_version(installed):
    config = build({}, OWN)
    assert origins(config) == ROWS
    assert recorded_origins(config, config) == {"plugins": ROWS}
    assert check_origins("runs/a", {"plugins": ROWS}) == []


def test_a_task_of_a_package_is_recorded(tmp_path, monkeypatch):
    install_examples(tmp_path / "site", monkeypatch, ("own_task",))
    row = {"kind": "task", "name": "arrays", "package": "own-task", "version": "0.1.0"}
    assert origins(build({}, {"task.name": "arrays"})) == [row]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            ROWS[0],
            "runs/a needs the reward 'frugal' of the package own-reward 0.1.0, which is not installed here: "
            "pip install own-reward==0.1.0, on every node",
        ),
        (
            {"kind": "host", "name": "nowhere:build", "package": None, "version": None},
            "runs/a needs the host 'nowhere:build', whose module is not found here: put its folder on PYTHONPATH, or "
            "install its package, on every node",
        ),
    ],
)
def test_a_missing_part_is_refused_in_one_line_with_what_to_install(row, message):
    with pytest.raises(PluginError) as caught:
        check_origins("runs/a", {"plugins": [row]})
    assert str(caught.value) == message


def test_another_version_is_a_note(installed):
    rows = [ROWS[0] | {"version": "0.0.9"}, ROWS[1]]
    assert check_origins("runs/a", {"plugins": rows}) == [
        "runs/a was started with the reward 'frugal' of own-reward 0.0.9; here it is that of own-reward 0.1.0"
    ]


def test_a_recorded_configuration_is_read_without_its_packages(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        install_examples(tmp_path / "site", patch)
        config = build({}, OWN)
    tree = config.model_dump(mode="json")
    assert build_complete(tree, recorded=True) == config
    with pytest.raises(ValueError, match="unknown reward mode 'frugal'"):
        build_complete(tree)
