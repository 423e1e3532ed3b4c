"""The account of an episode and the stories of its seeds, from the records of the log."""

import pytest
from nissa_builders import complete
from sanctum_builders import ENVS, STEPS, recorded_run

from esper_ray.karn.questions.account import PaidEntry, paid_entries, step_account
from esper_ray.karn.questions.episode import (
    UnknownEpisodeError,
    episode_account,
    live_episode,
    logged_episode,
    mean_control,
    placed_events,
    slots_of_episode,
)
from esper_ray.karn.questions.seeds import seed_account
from esper_ray.karn.questions.tables import LogTables

EPISODE = 2 * ENVS


def decision(episode, step):
    record = {"kind": "decision", "round": 2, "episode": episode, "env": 0, "step": step, "operation": "GERMINATE"}
    return complete(record | {"slot": "r0c0", "probability": 0.6, "operations": {"WAIT": 0.4, "GERMINATE": 0.6}})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = recorded_run(tmp_path_factory.mktemp("runs") / "runs")
    run.samples.add([decision(EPISODE, 2)])
    return run


@pytest.fixture(scope="module")
def tables(run):
    tables = LogTables(run)
    yield tables
    tables.close()


@pytest.fixture(scope="module")
def account(tables):
    return logged_episode(tables, EPISODE)


def records_of(run, episode, *kinds):
    return [record for record in run.events() if record["kind"] in kinds and record.get("episode") == episode]


def test_an_episode_has_its_steps_with_their_entries(run, account):
    steps = records_of(run, EPISODE, "env_epoch")
    assert [step["step"] for step in account["steps"]] == list(range(1, STEPS + 1))
    for shown, logged in zip(account["steps"], steps, strict=True):
        assert sum(entry["amount"] for entry in shown["entries"]) == pytest.approx(logged["reward"])
        assert shown["slots"] == logged["slots"]
        assert shown["val_accuracy_pp"] == logged["val_accuracy_pp"]
    assert account["steps"][4]["entries"][0] == {
        "step": 5, "cause": 5, "source": "gain", "slot": steps[4]["slot"], "amount": 0.1, "reason": "accuracy rose",
    }  # fmt: skip


def test_what_a_step_caused_and_was_paid_later_is_with_it(account):
    """The rent of every step names the first step as its cause."""
    assert [entry["step"] for entry in account["steps"][0]["later"]] == list(range(2, STEPS + 1))
    assert account["steps"][3]["later"] == []


def test_an_episode_has_its_ends_and_its_decisions(account):
    assert (account["env"], account["round"], account["seed"], account["live"]) == (0, 2, 100, False)
    assert account["outcome"]["fossilised"] == ["r0c0"]
    assert (account["rollback"], account["attribution"]) == (None, None)
    assert [decision["step"] for decision in account["decisions"]] == [2]
    assert account["decisions"][0]["heads"] is None
    assert account["slots"] == ["r0c0", "r0c1", "r0c2"]


def test_an_episode_without_a_control_of_its_own_has_the_mean_of_all(account, tables):
    """The only control rises by 1.5 with each step from 8 on, see the builder."""
    assert (account["control_is_own"], account["control_accuracy_pp"]) == (False, None)
    assert account["control_curve_pp"] == [8.0 + 1.5 * number for number in range(STEPS + 1)]
    assert mean_control(tables) == account["control_curve_pp"]
    own = logged_episode(tables, 0)
    assert (own["control_is_own"], own["control_accuracy_pp"]) == (True, 26.0)


def test_a_rolled_back_episode_has_its_reason(tables):
    assert logged_episode(tables, ENVS + 5)["rollback"]["reason"] == "validation_loss_diverges"


def test_an_unknown_episode_says_which_are_known(tables):
    with pytest.raises(
        UnknownEpisodeError, match=f"there is no episode 999: the log has the episodes up to {3 * ENVS - 1}"
    ):
        logged_episode(tables, 999)


def test_events_belong_to_the_step_that_follows_them(run):
    records = records_of(run, EPISODE, "seed_transition", "gate", "env_epoch")
    placed = placed_events([{**record, "step": 0} if record["kind"] != "env_epoch" else record for record in records])
    expected = [record["step"] for record in records if record["kind"] != "env_epoch"]
    assert [event["step"] for event in placed] == expected


def test_an_episode_in_play_is_shown_from_its_steps():
    step = {
        "kind": "env_epoch", "round": 3, "episode": 30, "env": 1, "step": 1, "operation": "WAIT", "slot": None,
        "success": True, "log_prob": -0.5, "value": 0.1, "reward": 0.2, "val_loss": 1.0, "val_accuracy_pp": 33.5,
        "committed_accuracy_pp": 30.0, "total_parameters": 10, "growth_ratio": 1.0, "slots": {},
    }  # fmt: skip
    live = {0: (), 1: (step,)}
    assert live_episode(live, 31) == []
    tree = episode_account(live_episode(live, 30), [], [], live=True)
    assert (tree["live"], tree["episode"], tree["seed"], tree["control_curve_pp"]) == (True, 30, None, None)
    assert (tree["steps"][0]["entries"], tree["steps"][0]["train_loss"]) == ([], None)
    assert slots_of_episode([step]) == []


def test_the_account_of_a_step_sums_to_its_reward_and_names_what_it_caused():
    def entry(cause, amount):
        return {"source": "s", "slot": None, "amount": amount, "cause_step": cause - 1, "why": "w"}

    steps = [{"step": 1, "entries": [entry(1, 0.5)]}, {"step": 2, "entries": [entry(2, 0.25), entry(1, -1.0)]}]
    account = step_account(paid_entries(steps), 1)
    assert account.booked == (PaidEntry(1, 1, "s", None, 0.5, "w"),)
    assert account.later == (PaidEntry(2, 1, "s", None, -1.0, "w"),)
    assert [entry.amount for entry in step_account(paid_entries(steps), 2).booked] == [-1.0, 0.25]


def test_the_story_of_a_fossilized_seed(tables):
    """Environment 0: the seed of r0c0 germinates at step 1 and is fossilized nine steps later, see the builder."""
    story = seed_account(tables, EPISODE, "r0c0-1")
    assert story["sentence"].startswith(
        "conv_light germinated in r0c0 at step 1 by the policy, training from step 2, blending from step 5, holding "
        "from step 8; fossilized at step 10 by the policy. Its last measured contribution, at step 12, was "
    )
    assert [event["to"] for event in story["transitions"]] == [
        "GERMINATED",
        "TRAINING",
        "BLENDING",
        "HOLDING",
        "FOSSILIZED",
    ]
    assert [gate["gate"] for gate in story["gates"]] == ["G2"] * 5
    assert story["gates"][0]["checks"][0] == {
        "name": "contribution", "value": 1.2, "threshold": 1.0, "margin": 0.2, "passed": True,
    }  # fmt: skip
    assert [point["step"] for point in story["contribution"]] == list(range(5, STEPS + 1))
    assert story["contribution"][0] == {"step": 5, "pp": 7.5, "error_pp": 0.7, "alpha": 0.5}
    assert {entry["slot"] for entry in story["rewards"]} == {"r0c0"}
    assert [decision["step"] for decision in story["decisions"]] == [2]
    assert (story["first_step"], story["last_step"]) == (1, STEPS)


def test_a_slot_names_its_last_seed(tables):
    assert seed_account(tables, EPISODE, "r0c0")["seed"] == "r0c0-1"


def test_a_pruned_seed_ends_with_its_pruning(tables):
    story = seed_account(tables, 2 * ENVS + 3, "r0c1")
    assert "; pruned at step" in story["sentence"]
    assert story["last_step"] == story["transitions"][-1]["step"]


@pytest.mark.parametrize(
    ("episode", "seed", "reason"), [(EPISODE, "r9c9", "seeds: r0c0-1"), (999, "r0c0", "no episode 999")]
)
def test_an_unknown_seed_is_refused_with_those_that_exist(tables, episode, seed, reason):
    with pytest.raises(UnknownEpisodeError, match=reason):
        seed_account(tables, episode, seed)
