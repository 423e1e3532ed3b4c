"""``esper dashboards``: rendered files, the check of files and queries, and the push to Grafana."""

import os

import pytest
from cli_builders import call
from grafana_builders import TOKEN, FakeGrafana, running

from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.nissa.grafana import dashboard as module
from esper_ray.nissa.grafana.dashboard import files
from esper_ray.nissa.runs.run_directory import Names, RunDirectory

pytestmark = pytest.mark.integration


def test_rendered_files_pass_the_check(tmp_path):
    rendered = call("dashboards", "render", "--out", tmp_path)
    assert rendered.code == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict(files())
    checked = call("dashboards", "check", "--folder", tmp_path)
    assert (checked.code, checked.err) == (0, "")
    assert checked.out.endswith("queries, 0 problems\n")


@pytest.mark.parametrize("kind", ["a file", "a folder", "a pipe", "a link to nothing"])
@pytest.mark.parametrize("name", ["esper.json", "alerts.yaml"])
def test_a_foreign_file_is_not_replaced_and_nothing_is_written(name, kind, tmp_path):
    path = tmp_path / name
    makers = {"a file": lambda: path.write_text("groups: []\n"), "a folder": path.mkdir}
    makers |= {"a pipe": lambda: os.mkfifo(path), "a link to nothing": lambda: path.symlink_to("nothing-there")}
    makers[kind]()
    before = path.lstat().st_mtime_ns
    answer = call("dashboards", "render", "--out", tmp_path)
    assert answer.code == 2
    assert answer.err == (
        f"esper: error: --out {tmp_path}: {name} in it was not written by this command; choose another folder\n"
    )
    assert (os.listdir(tmp_path), path.lstat().st_mtime_ns) == ([name], before)


def test_rendered_files_are_replaced(tmp_path):
    assert call("dashboards", "render", "--out", tmp_path).code == 0
    for name, content in files().items():
        (tmp_path / name).write_text(content.replace("10s", "20s"))
    assert call("dashboards", "render", "--out", tmp_path).code == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict(files())


def test_missing_or_outdated_files_are_problems(tmp_path):
    (tmp_path / "esper.json").write_text("{}")
    answer = call("dashboards", "check", "--folder", tmp_path)
    assert answer.code == 1
    assert "esper.json differs from the catalogue" in answer.err
    assert "alerts.yaml does not exist" in answer.err
    assert answer.out.endswith("2 problems\n")


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("sum(ray_esper_round_total)", "there is no metric ray_esper_round_total"),
        ("sum(ray_esper_rounds_total", "panel 'x': "),
    ],
)
def test_invalid_queries_are_problems(tmp_path, monkeypatch, expression, problem):
    call("dashboards", "render", "--out", tmp_path)
    monkeypatch.setattr(module, "expressions", lambda: [("panel 'x'", expression)])
    answer = call("dashboards", "check", "--folder", tmp_path)
    assert answer.code == 1
    assert problem in answer.err


def test_a_missing_folder_is_refused(tmp_path):
    answer = call("dashboards", "render", "--out", tmp_path / "nowhere")
    assert answer.code == 2
    assert "it must be a folder that exists" in answer.err


def test_push_needs_a_valid_address_and_a_token(monkeypatch):
    monkeypatch.delenv("GRAFANA_TOKEN", raising=False)
    missing = call("dashboards", "push", "--url", "http://127.0.0.1:1")
    assert (missing.code, "--token-env GRAFANA_TOKEN: there is no such" in missing.err) == (2, True)
    monkeypatch.setenv("MINE", "glsa_x")
    invalid = call("dashboards", "push", "--url", "grafana:3000", "--token-env", "MINE")
    assert (invalid.code, "must begin with http" in invalid.err) == (2, True)
    for url in ("http://[::1", "http://a:99999", "http://", "https://:80"):
        wrong = call("dashboards", "push", "--url", url, "--token-env", "MINE")
        assert (wrong.code, wrong.err.startswith(f"esper: error: --url '{url}': ")) == (2, True)
    unreachable = call("dashboards", "push", "--url", "http://127.0.0.1:1", "--token-env", "MINE")
    assert unreachable.code == 2
    assert "http://127.0.0.1:1" in unreachable.err
    assert "glsa_x" not in unreachable.err


def test_a_second_push_of_the_same_runs_creates_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFANA_TOKEN", TOKEN)
    rollback = {"kind": "rollback", "round": 0, "episode": 0, "env": 0, "step": 3, "reason": "loss diverges"}
    options = []
    for group in ("shaped", "basic"):
        run = RunDirectory.create(tmp_path, build(read_preset("digits")), [], f"ab-{group}", Names("ab", group))
        run.log([rollback | {"value": 9.0, "threshold": 6.0}])
        run.add_round({"round": 0}, {"round": 0})
        options += ["--run", run.path]
    fake = FakeGrafana([{"name": "Prometheus", "type": "prometheus", "uid": "p1"}])
    with running(fake) as url:
        answers = [call("dashboards", "push", "--url", url, *options) for _ in range(2)]
    assert [answer.code for answer in answers] == [0, 0]
    for group in ("shaped", "basic"):
        assert f"annotations of ab/{group}: 1 (1 created, 0 removed)" in answers[0].out
        assert f"annotations of ab/{group}: 1 (0 created, 0 removed)" in answers[1].out
    assert len(fake.annotations) == 2


def test_a_folder_that_is_no_run_is_refused_before_the_push(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFANA_TOKEN", TOKEN)
    fake = FakeGrafana([])
    with running(fake) as url:
        answer = call("dashboards", "push", "--url", url, "--run", tmp_path)
    assert (answer.code, f"{tmp_path} is not a run directory" in answer.err) == (2, True)
    assert fake.requests == []
