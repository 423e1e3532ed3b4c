"""The generated pages of the reference are those that the code yields."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from esper_ray.leyline.config.host import CNNHostConfig, MLPHostConfig, TransformerHostConfig
from esper_ray.leyline.config.run import RunConfig

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "pages" / "reference"
GENERATED = ("configuration.md", "command-line.md", "events.md", "messages.md", "metrics.md")

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Folder of pages that are generated in a process of their own, which imports every module of ours."""
    folder = tmp_path_factory.mktemp("reference")
    subprocess.run([sys.executable, ROOT / "docs" / "generate.py", folder], check=True, cwd=folder)
    return folder


def test_exactly_the_five_generated_pages_are_written(fresh):
    assert sorted(path.name for path in fresh.iterdir()) == sorted(GENERATED)


@pytest.mark.parametrize("name", GENERATED)
def test_the_committed_page_is_current(fresh, name):
    assert (REFERENCE / name).read_text() == (fresh / name).read_text(), "run `make pages`"


@pytest.mark.parametrize("host", [CNNHostConfig(), TransformerHostConfig(), MLPHostConfig()])
def test_every_configuration_key_of_every_host_family_has_a_row(host):
    page = (REFERENCE / "configuration.md").read_text()
    config = RunConfig.model_construct(host=host)
    missing = [key for key in config.flat() if f"| `{key}` |" not in page]
    assert missing == []


def test_a_configuration_row_has_type_range_and_default():
    page = (REFERENCE / "configuration.md").read_text()
    assert '| `growth.gates` | string | `permissive`, `strict` | `"permissive"` |' in page
    assert "| `ppo.clip` | number | > 0, < 1 | `0.2` |" in page
    assert "| `system.gpus_per_actor` | number or null | > 0, ≤ 1 | `null` |" in page


def test_every_configuration_key_has_a_meaning():
    rows = [line for line in (REFERENCE / "configuration.md").read_text().splitlines() if line.startswith("| `")]
    assert len(rows) > 150
    assert [row for row in rows if row.endswith("|  |")] == []


def test_every_command_has_a_section_and_every_visible_option_a_row():
    page = (REFERENCE / "command-line.md").read_text()
    for command in ("esper train ppo", "esper train heuristic", "esper sweep", "esper submit", "esper config schema"):
        assert f" {command}\n" in page
    section = page.partition("# esper train ppo\n")[2].partition("\n#")[0]
    for option in ("--preset", "--set KEY=VALUE", "--resume", "--run-id", "--dual-ab MODE-vs-MODE", "--slots"):
        assert f"| `{option}` " in section
    (port,) = [line for line in section.splitlines() if "`--metrics-port`" in line]
    assert port.startswith("| `--metrics-port` int | ")
    assert port.endswith(" (0 to 65535) |")


def test_every_user_error_has_a_section_with_remedy_and_exit_code():
    page = (REFERENCE / "messages.md").read_text()
    remedies = 0
    for package in ("esper_ray", "actors", "policies"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef) and node.name != "UserError" and "remedy" in ast.dump(node):
                    assert f"## {node.name}\n" in page
                    remedies += 1
    assert page.count("\n**Remedy.** ") == remedies > 15


def test_the_navigation_names_every_page_and_no_other():
    text = (ROOT / "docs" / "mkdocs.yml").read_text()
    named = {word for line in text.partition("\nnav:")[2].splitlines() for word in line.split() if word.endswith(".md")}
    pages = ROOT / "docs" / "pages"
    assert named == {str(path.relative_to(pages)) for path in pages.rglob("*.md")}


def test_the_site_needs_no_font_or_script_from_elsewhere():
    settings = yaml.safe_load((ROOT / "docs" / "mkdocs.yml").read_text())
    assert settings["theme"]["font"] is False
    assert settings["strict"] is True
    assert not any("//" in path for path in settings.get("extra_css", []) + settings.get("extra_javascript", []))
