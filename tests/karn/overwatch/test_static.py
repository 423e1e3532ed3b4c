"""Files of the pages: vendored libraries, imports, colors, sizes, and nothing that the policy refuses."""

import gzip
import hashlib
import importlib.util
import json
import re
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from overwatch_site import TEMPLATES

from esper_ray.karn.reports.html.style import DARK, LIGHT, STAGE_FILLS, contrast
from esper_ray.karn.sanctum.stages import LETTERS, MEANINGS, OPERATION_LETTERS
from esper_ray.leyline.actions import HEADS, LifecycleOp

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "esper_ray" / "karn" / "overwatch"
STATIC = FOLDER / "static"
VENDOR = STATIC / "vendor"
PACKAGES = json.loads((VENDOR / "vendor.json").read_text())["packages"]
OWN_SCRIPTS = sorted(path for path in STATIC.rglob("*.js") if VENDOR not in path.parents)
CSS = "\n".join(path.read_text() for path in sorted(STATIC.glob("*.css")))
FIRST_LOAD = 250_000
"""Most bytes of a page with everything that it loads, compressed."""


def vendoring():
    spec = importlib.util.spec_from_file_location("vendoring", ROOT / "docs" / "vendor.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def colors(scheme):
    """Variables of the style sheet in a scheme."""
    pairs = re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", CSS)
    return {name: (light, dark)[scheme == "dark"] for name, light, dark in pairs}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package["name"])
def test_vendored_files_have_the_digests_of_the_manifest(package):
    for file in package["files"]:
        assert hashlib.sha256((VENDOR / file["to"]).read_bytes()).hexdigest() == file["sha256"], file["to"]
    assert any(file["to"].endswith("/LICENSE") for file in package["files"])
    assert package["integrity"].startswith("sha512-")


def test_there_is_no_vendored_file_besides_those_of_the_manifest():
    named = {file["to"] for package in PACKAGES for file in package["files"]} | {"vendor.json"}
    assert {path.relative_to(VENDOR).as_posix() for path in VENDOR.rglob("*") if path.is_file()} == named


def test_the_versions_are_those_of_the_issue():
    assert {package["name"]: package["version"] for package in PACKAGES} == {"lit-html": "3.3.3", "uplot": "1.6.32"}


def test_an_archive_with_another_integrity_is_refused(tmp_path):
    vendor = vendoring()
    archive = tmp_path / "p.tgz"
    with tarfile.open(archive, "w:gz") as content:
        info = tarfile.TarInfo("package/a.js")
        info.size = 2
        content.addfile(info, BytesIO(b"42"))
    package = {"integrity": vendor.integrity_of(archive.read_bytes()), "files": [{"from": "package/a.js", "to": "a"}]}
    assert vendor.unpacked(archive, package) == {"a": b"42"}
    with pytest.raises(ValueError, match=r"p\.tgz has the integrity"):
        vendor.unpacked(archive, {**package, "integrity": "sha512-other"})


def imports(path):
    """Files that a module imports; a computed name stands for all modules of its folder."""
    found = set()
    for name in re.findall(r"""(?:from|import)\s*\(?["`]([^"`]+)["`]""", path.read_text()):
        if "${" in name:
            found |= set((path.parent / name).parent.glob("*.js"))
        elif name.startswith("."):
            found.add((path.parent / name).resolve())
    return found


@pytest.mark.parametrize("path", OWN_SCRIPTS, ids=lambda path: path.relative_to(STATIC).as_posix())
def test_imports_of_a_script_exist_and_no_line_is_too_long(path):
    assert all(file.is_file() for file in imports(path)), imports(path)
    lines = path.read_text().splitlines()
    assert len(lines) <= 400
    assert [line for line in lines if len(line) > 120] == []


def test_scripts_and_templates_hold_nothing_that_the_policy_refuses():
    texts = {path: path.read_text() for path in [*OWN_SCRIPTS, *(FOLDER / "templates").glob("*.html")]}
    refused = r"\sstyle=|\son\w+=[\"']|\beval\(|new Function|unsafeHTML|innerHTML|javascript:"
    for path, text in texts.items():
        assert not re.search(refused, text), path
        assert not re.search(r"<script(?![^>]*src=)", text), path
        assert "http://" not in text.replace("http://www.w3.org", ""), path
        assert "https://" not in text, path


def first_load():
    """Files that the overview of a run loads."""
    due, files = [STATIC / "app.js", STATIC / "pages" / "run.js"], set()
    while due:
        path = due.pop().resolve()
        if path not in files:
            files.add(path)
            due += [file for file in imports(path) if file.parent.name != "pages" or file.name == "run.js"]
    return files | {STATIC / "theme.js", STATIC / "icon.svg", *STATIC.glob("*.css"), VENDOR / "uplot" / "uPlot.min.css"}


def test_the_first_load_of_a_page_is_below_250_kilobytes_compressed():
    sizes = {path.name: len(gzip.compress(path.read_bytes(), 6)) for path in first_load()}
    assert len(sizes) > 15
    assert sum(sizes.values()) < FIRST_LOAD, sizes


@pytest.mark.parametrize(("scheme", "report"), [("light", LIGHT), ("dark", DARK)])
def test_the_colors_are_those_of_the_report(scheme, report):
    own = colors(scheme)
    assert {name: own[name] for name in report} == dict(report)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_of_level_aa_and_graphics_that_of_graphics(scheme):
    own = colors(scheme)
    for paper in ("paper", "panel", "hover", "chosen"):
        for text in ("ink", "soft", "link"):
            assert contrast(own[text], own[paper]) >= 4.5, (text, paper)
    for line in ("c1", "c2", "c3", "c4", "grey", "edge"):
        assert contrast(own[line], own["paper"]) >= 3.0, line


def test_stages_have_the_letters_and_colors_of_the_report():
    fills = dict(re.findall(r"\.stage\.(\w+) \{\s+background: (#\w{6});", CSS))
    blocks = dict(re.findall(r"\.fill-(\w+) \{\s+fill: (#\w{6});", CSS))
    expected = {stage.name.lower(): fill for stage, (_, fill) in STAGE_FILLS.items()}
    assert fills == expected
    assert blocks == expected


def test_words_and_letters_are_those_of_sanctum():
    script = (STATIC / "words.js").read_text()
    pairs = re.findall(r'([A-Z_]+): \["(.)", "([^"]+)"\]', script)
    stages = {name: letter for name, letter, _ in pairs if name in LETTERS}
    assert stages == dict(LETTERS)
    assert {name: text for name, _, text in pairs if name in MEANINGS} == dict(MEANINGS)
    assert {name: letter for name, letter, _ in pairs if name in OPERATION_LETTERS} == dict(OPERATION_LETTERS)
    assert {op.name for op in LifecycleOp} == set(OPERATION_LETTERS)
    assert json.loads(re.search(r"HEADS = (\[[^\]]+\])", script)[1]) == list(HEADS)


def test_every_preloaded_module_is_one_that_each_page_imports_at_once():
    page = TEMPLATES.get_template("page.html").render(page="run", title="", root="", version="1")
    names = re.findall(r'modulepreload" href="/static/([^"]+)"', page)
    due, static = [STATIC / "app.js"], set()
    while due:
        path = due.pop()
        found = {file.resolve() for file in imports(path) if file.parent.name != "pages"}
        due += found - static
        static |= found
    assert {STATIC / name for name in names} - static == {STATIC / "pages" / "run.js"}


def test_values_of_a_template_are_escaped():
    evil = '"><script>alert(1)</script>'
    values = {"root": "/p", "version": "1", "error": evil, "nearest": evil, "nearest_url": None, "command": evil}
    text = TEMPLATES.get_template("missing.html").render(**values)
    assert "<script>alert" not in text
    page = TEMPLATES.get_template("page.html").render(page="run", title=evil, **values)
    assert "<script>alert" not in page
