"""The interface of JSON: places, states of runs, refusals."""

import json

import pytest
from overwatch_builders import ADDRESS, add_live_step, eventually, live_run, served, state_of
from report_builders import run_of, small_run
from sanctum_builders import ENVS, NAME, ROUNDS, SLOTS, beat
from starlette.testclient import TestClient
from state_builders import step

import esper_ray
from esper_ray.leyline.actions import HEADS


def test_health_has_the_version_and_needs_nothing(client):
    response = client.get("/healthz")
    assert response.json() == {"ok": True}
    assert response.headers["x-esper-version"] == esper_ray.__version__


def test_a_run_has_every_section(client):
    sections = state_of(client)
    assert set(sections) == {
        "facts", "answers", "age", "rounds", "environments", "reward", "gates", "blueprints", "anomalies", "faults",
        "notable", "integrity",
    }  # fmt: skip
    facts = sections["facts"]
    assert (facts["name"], facts["rounds"], facts["slots"], facts["failure"]) == (NAME, 11, list(SLOTS), None)
    assert (facts["status"], facts["seed"], facts["machine"]) == ("training", 42, "box")
    assert facts["command_resume"].startswith("esper train ppo --resume ")
    names = facts["choice_names"]
    assert (names["op"][1], names["slot"], names["alpha_target"]) == ("germinate", list(SLOTS), ["0.5", "0.7", "1.0"])
    assert (names["tempo"][0], names["alpha_curve"][2]) == ("3 ticks", "sigmoid 6")
    assert set(names) == set(HEADS)


def test_the_answers_are_those_of_the_state(client):
    answers = state_of(client)["answers"]
    assert list(answers) == ["alive", "learning", "growing", "explained", "safe"]
    assert answers["learning"]["level"] == "ok"
    assert answers["safe"]["text"].startswith("head collapsed (style): 0.0721")


def test_columns_of_rounds_have_one_length_and_null_for_what_is_not_recorded(client):
    columns = state_of(client)["rounds"]["columns"]
    assert {len(values) for values in columns.values()} == {ROUNDS}
    assert columns["val_accuracy_ratio"] == [0.45, 0.48, 0.51]
    # 42 % plus 1.5 for each environment and 2 for each round, see the builder
    assert columns["val_accuracy_min"] == [0.42, 0.44, 0.46]
    assert columns["val_accuracy_max"] == [0.525, 0.545, 0.565]
    assert columns["return_max"] == pytest.approx([1.9, 2.9, 3.9])
    assert columns["control_accuracy_ratio"] == [0.26] * ROUNDS
    assert columns["choice_share_op"] == [0.1] * ROUNDS
    assert columns["head_entropy_style"] == pytest.approx([0.05 / 0.693147] * ROUNDS, rel=1e-4)


def test_what_a_version_did_not_record_is_absent_and_not_zero(tmp_path):
    small_run(tmp_path, run_id="old")
    with served(tmp_path) as client:
        sections = state_of(client, "old")
    assert sections["rounds"]["columns"].get("clip_share_up") is None
    assert sections["answers"]["alive"]["text"] == "finished"
    assert (sections["age"]["beat_age_s"], sections["facts"]["host_parameters"]) == (None, None)


def test_rounds_have_marks_of_fossilized_seeds_rollbacks_and_anomalies(client):
    marks = state_of(client)["rounds"]["marks"]
    assert [mark for mark in marks if mark["kind"] != "fossilized"] == [
        {"round": 1, "kind": "rollback", "text": "1 validation_loss_diverges"},
        {"round": 2, "kind": "anomaly", "text": "begins: head collapsed (style): 0.0721, threshold 0.08"},
    ]
    assert [mark["round"] for mark in marks if mark["kind"] == "fossilized"] == [0, 1, 2]


def test_environments_in_play_are_marked_and_others_show_their_last_episode(client):
    environments = state_of(client)["environments"]
    assert sorted(environments) == sorted(map(str, range(ENVS)))
    assert [env for env in range(ENVS) if environments[str(env)]["live"]] == [0, 2, 4, 6]
    assert (environments["0"]["step"], environments["1"]["step"]) == (5, 12)
    assert environments["1"]["slots"]["r0c0"]["stage"] == "FOSSILIZED"


def test_notable_events_lead_to_their_step(client):
    first = state_of(client)["notable"][0]
    assert first["kind"] == "anomaly"
    assert first["level"] == "look"
    seeds = [event for event in state_of(client)["notable"] if event["kind"] == "seed_transition"]
    newest = seeds[0]
    assert newest["url"] == f"/runs/{NAME}/episodes/{newest['episode']}?step={newest['step']}"
    assert "lived" in newest["text"]


def test_the_state_is_complete_without_a_version_and_partial_with_one(client):
    state_of(client)
    run = client.services.hub.known(client.services.index.find("run", NAME))
    shot = run.shot
    assert json.loads(shot.text(shot.version)) == {"version": shot.version, "sections": {}}
    assert json.loads(shot.text(shot.version + 1)) == json.loads(shot.text())


def test_an_unknown_run_is_404_with_the_nearest_name_and_a_command(client):
    response = client.get("/api/v1/runs/digits-s43")
    assert response.status_code == 404
    tree = response.json()
    assert tree["nearest"] == NAME
    assert tree["error"] == f"there is no run 'digits-s43' in the watched folders; did you mean {NAME}?"
    assert tree["command"].startswith("ls -d ")


def test_an_unknown_path_of_the_interface_is_json(client):
    response = client.get("/api/v1/nothing")
    assert (response.status_code, response.json()["error"]) == (404, "there is no /api/v1/nothing in the interface")


def test_places_have_status_settings_that_differ_and_in_the_end_their_gain(tmp_path):
    live_run(tmp_path)
    small_run(tmp_path, run_id="other", seed=7)
    with served(tmp_path) as client:

        def places():
            lines = client.get("/api/v1/places").json()["places"]
            return None if any(line["reading"] for line in lines) else {line["id"]: line for line in lines}

        lines = eventually(places)
    assert list(lines) == ["other", NAME]
    assert (lines["other"]["status"], lines[NAME]["status"]) == ("finished", "running")
    assert lines["other"]["settings"] == {"ppo.rounds": 3, "system.envs": 2}
    assert lines[NAME]["settings"] == {"ppo.rounds": 11, "system.envs": ENVS}
    assert lines["other"]["gain"]["mean_pp"] == pytest.approx(13.0)
    assert lines[NAME]["gain"]["episodes"] == ENVS * ROUNDS


def test_a_list_without_runs_is_empty(tmp_path):
    with served(tmp_path) as client:
        assert client.get("/api/v1/places").json() == {"places": [], "problems": [], "folders": [str(tmp_path)]}


def test_a_log_of_another_version_is_a_failure_that_is_shown(tmp_path):
    run = live_run(tmp_path)
    run.event_log.tail.write_text(json.dumps({"schema": 99, "kind": "round", "seq": 0}) + "\n")
    with served(tmp_path) as client:
        facts = state_of(client)["facts"]
    assert "version 99, this program reads" in facts["failure"]


def test_a_fault_of_the_program_is_said_without_its_details(client, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(client.services.summaries, "lines", fail)
    quiet = TestClient(client.app, base_url=ADDRESS, raise_server_exceptions=False)
    response = quiet.get("/api/v1/places")
    assert (response.status_code, response.json()["error"]) == (500, "a fault of the program: ZeroDivisionError")
    assert response.headers["content-security-policy"]
    assert "secret" not in response.text


def test_a_place_that_cannot_be_read_is_refused_with_the_reason(client, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "runs/x/manifest.json")

    monkeypatch.setattr(client.services.hub, "follow", refuse)
    response = client.get(f"/api/v1/runs/{NAME}")
    assert response.status_code == 400
    assert response.json()["error"] == "runs/x/manifest.json cannot be read: Permission denied"


def test_texts_of_a_run_stay_texts(tmp_path):
    evil = "</script><script>alert(1)</script>"
    run_of(tmp_path, [step(number=1)], status=evil, run_id="run-1")
    with served(tmp_path) as client:
        response = client.get("/api/v1/runs/run-1")
        page = client.get("/runs/run-1").text
    assert response.headers["content-type"] == "application/json"
    assert evil not in page


def test_a_new_step_and_a_new_phase_are_seen(tmp_path):
    run = live_run(tmp_path)
    with served(tmp_path) as client:
        assert state_of(client)["environments"]["1"]["live"] is False
        add_live_step(run)
        eventually(lambda: state_of(client)["environments"]["1"]["val_accuracy_pp"] == 33.5)
        beat(run, phase="learning", beat=2)
        eventually(lambda: state_of(client)["age"]["phase"] == "learning")
