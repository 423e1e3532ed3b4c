"""Programs of ``examples/`` that grow a model, in short form."""

import ast
import re
import runpy
import sys
from pathlib import Path

import pytest
from cifar_files import write_cifar

EXAMPLES = Path(__file__).parents[2] / "examples"
SCREEN = 60
"""Lines of a screen."""

pytestmark = pytest.mark.integration


@pytest.fixture
def run(monkeypatch, capsys):
    """Function that runs an example and returns the lines that it prints."""

    def lines(name, *options):
        monkeypatch.setattr(sys, "argv", [name, *map(str, options)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return lines


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Few random pictures."""
    return write_cifar(tmp_path_factory.mktemp("cifar"), 350, 250)


@pytest.mark.slow
def test_the_life_by_hand_ends_with_a_committed_seed_and_fits_on_a_screen(run):
    lines = run("grow_a_module.py")
    assert any("HOLDING -> FOSSILIZED" in line for line in lines)
    assert any(re.search("FOSSILIZED .* 600 parameters", line) for line in lines)
    text = (EXAMPLES / "grow_a_module.py").read_text()
    assert len(text.splitlines()) <= SCREEN
    modules = {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    assert {module for module in modules if module.startswith("esper")} == {"esper_ray"}


@pytest.mark.parametrize("policy", ["heuristic", "tamiyo"])
def test_a_grown_model_is_compared_with_the_same_one_alone(run, policy):
    lines = run("grow_with_policy.py", policy, "--epochs", "3")
    assert [line.partition(":")[0] for line in lines[-2:]] == ["alone", "grown"]
    assert lines[-2].startswith("alone: 162 parameters, test ")


@pytest.mark.nightly
def test_random_legal_actions_play_an_episode(run):
    lines = run("random_policy.py")
    assert re.fullmatch(r"return [+-][\d.]+, [\d.]+ times the parameters of the host", lines[-1])


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.export warns of its own parts
def test_a_resnet_grows_in_an_environment_and_is_exported(run, pictures, tmp_path):
    path = tmp_path / "grown.pt2"
    lines = run("grow_resnet18.py", "--data-dir", pictures, "--images", 90, "--epochs", 2, "--save", path)
    assert lines[-1] == f"exported to {path}"
    assert path.stat().st_size > 1e6


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.export warns of its own parts
@pytest.mark.parametrize("model", ["resnet18", "vit"])
def test_a_model_of_a_library_grows_and_runs_under_onnx(run, pictures, tmp_path, model):
    sizes = ["--images", 96, "--held-out", 24, "--test", 20, "--batch-size", 32, "--epochs", 8]
    path = tmp_path / "grown.onnx"
    lines = run("grow_and_export.py", model, "--data-dir", pictures, *sizes, "--onnx", path)
    assert lines[0].startswith("slots at the ends of the stages of")
    assert any("GERMINATE" in line for line in lines)
    difference = float(re.search(r"logits differ by (\S+) at most", lines[-1]).group(1))
    assert difference < 1e-3


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.export warns of its own parts
def test_a_narrow_resnet_is_widened_inside_its_blocks_and_exported_without_a_side_branch(run, pictures, tmp_path):
    sizes = ["--images", 96, "--held-out", 24, "--test", 20, "--batch-size", 32, "--epochs", 8, "--width", 4]
    path = tmp_path / "wide.onnx"
    lines = run("widen_resnet18.py", "--data-dir", pictures, *sizes, "--parameters", 60_000, "--onnx", path)
    assert [line.split()[0] for line in lines[:8]] == [
        f"layer{stage}.{block}.conv1" for stage in range(1, 5) for block in range(2)
    ]
    assert any("GERMINATE" in line and "widen_" in line for line in lines)
    parameters = int(re.search(r"^([\d,]+) parameters, test", lines[-2]).group(1).replace(",", ""))
    assert parameters <= 60_000
    assert float(re.search(r"logits differ by (\S+) at most", lines[-1]).group(1)) < 1e-3
