"""Episodes, seeds, policy, network, log and recordings through the server."""

import json

import pytest
from overwatch_builders import add_live_step, live_run, served, state_of
from sanctum_builders import ENVS, NAME, ROUNDS, STEPS

from esper_ray.nissa.runs.flight_recorder import FlightRecorder

RUN = f"/api/v1/runs/{NAME}"


def test_the_table_of_episodes_is_sorted_filtered_and_paged(client):
    page = client.get(f"{RUN}/episodes", params={"sort": "val_accuracy_pp", "descending": "1", "limit": 3}).json()
    accuracies = [row["val_accuracy_pp"] for row in page["rows"]]
    assert (page["total"], len(accuracies)) == (ENVS * ROUNDS, 3)
    assert accuracies == sorted(accuracies, reverse=True)
    page = client.get(f"{RUN}/episodes", params={"filter": "rollback"}).json()
    assert [row["rollback"] for row in page["rows"]] == ["validation_loss_diverges"]


@pytest.mark.parametrize("query", ["sort=x", "filter=x=y", "offset=-1", "limit=a", f"filter={'a' * 600}"])
def test_a_wrong_parameter_is_refused(client, query):
    response = client.get(f"{RUN}/episodes?{query}")
    assert response.status_code == 400
    assert response.json()["error"]


def test_a_logged_episode_and_one_in_play(client):
    state_of(client)
    logged = client.get(f"{RUN}/episodes/3").json()
    assert (logged["live"], len(logged["steps"]), logged["env"]) == (False, STEPS, 3)
    live = client.get(f"{RUN}/episodes/{ROUNDS * ENVS}").json()
    assert (live["live"], len(live["steps"]), live["outcome"]) == (True, 5, None)
    assert len(live["control_curve_pp"]) == STEPS + 1


@pytest.mark.parametrize("path", ["episodes/999", "episodes/999/seeds/r0c0", "episodes/3/seeds/none", "flight/7"])
def test_what_the_log_does_not_have_is_refused(client, path):
    response = client.get(f"{RUN}/{path}")
    assert response.status_code in (400, 404)
    assert response.json()["error"]


@pytest.mark.parametrize("path", ["episodes/x", "episodes/-1", "episodes/1.5", "flight/x"])
def test_a_number_must_be_one(client, path):
    assert client.get(f"{RUN}/{path}").status_code == 400


def test_the_story_of_a_seed(client):
    story = client.get(f"{RUN}/episodes/3/seeds/r0c1-1").json()
    assert story["slot"] == "r0c1"
    assert "germinated in r0c1" in story["sentence"]


def test_heads_and_operations_by_round(client):
    tree = client.get(f"{RUN}/policy").json()
    assert tree["rounds"] == [0, 1, 2]
    style = tree["heads"]["style"]
    assert (style["choices"], style["floor"], style["entropy"]) == (2, 0.08, [0.05] * 3)
    assert style["normalized_entropy"] == pytest.approx([0.0721] * 3, abs=1e-4)
    assert tree["operations"]["WAIT"] == [70] * 3
    assert tree["diagnostics"]["kl"] == [0.012] * 3


def test_the_network_has_layers_and_the_seeds_of_a_step(client):
    state_of(client)
    tree = client.get(f"{RUN}/network", params={"episode": 3, "step": 6}).json()
    assert tree["recorded"] is True
    assert [layer["name"] for layer in tree["layers"]] == ["stem", "pool", "body", "late", "head"]
    assert tree["steps"] == STEPS
    step = client.get(f"{RUN}/episodes/3").json()["steps"][5]
    assert tree["seeds"] == step["slots"] != {}
    assert client.get(f"{RUN}/network").json()["seeds"] == {}


def test_the_log_is_read_backward_by_kind_and_text(client):
    page = client.get(f"{RUN}/log", params={"limit": 5}).json()
    numbers = [record["seq"] for record in page["records"]]
    assert numbers == sorted(numbers, reverse=True)
    assert page["records"][0]["kind"] == "anomaly"
    assert page["records"][0]["line"].startswith("r3  anomaly begins: head collapsed (style)")
    following = client.get(f"{RUN}/log", params={"limit": 5, "before": page["before"]}).json()
    assert following["records"][0]["seq"] == numbers[-1] - 1
    outcomes = client.get(f"{RUN}/log", params={"kind": "outcome", "limit": 1000}).json()
    assert (len(outcomes["records"]), outcomes["before"]) == (ENVS * ROUNDS, None)
    back = client.get(f"{RUN}/log", params={"text": "rollback"}).json()["records"]
    assert "validation_loss_diverges" in back[0]["line"]
    assert client.get(f"{RUN}/log", params={"kind": "none"}).status_code == 400


def test_recordings_are_listed_and_read(tmp_path):
    run = live_run(tmp_path)
    recorder = FlightRecorder(run.path)
    recorder.add("playing")
    recorder.write("anomaly", "a head has collapsed")
    with served(tmp_path) as client:
        tree = client.get(f"{RUN}/flight").json()
        (entry,) = tree["recordings"]
        assert (entry["number"], entry["what"], entry["items"]) == (1, "anomaly", 1)
        assert tree["command"].startswith("esper flight ")
        assert tree["end"][0].startswith(f"{NAME}: the manifest says running")
        recording = client.get(f"{RUN}/flight/1").json()
    assert (recording["what"], recording["reason"]) == ("anomaly", "a head has collapsed")
    assert [line["text"] for line in recording["lines"]] == ["-- playing --"]


def test_an_episode_in_play_grows_while_it_is_watched(tmp_path):
    run = live_run(tmp_path)
    with served(tmp_path) as client:
        state_of(client)
        add_live_step(run, 1)
        add_live_step(run, 2)
        for _ in range(200):
            response = client.get(f"{RUN}/episodes/25")
            if response.status_code == 200 and len(response.json()["steps"]) == 2:
                break
        tree = response.json()
    assert [step["step"] for step in tree["steps"]] == [1, 2]
    assert json.dumps(tree)
