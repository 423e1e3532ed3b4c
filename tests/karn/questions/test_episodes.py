"""The table of episodes: sorted, filtered, paged, equal to the log."""

import pytest
from report_builders import run_of, small_records

from esper_ray.karn.questions.episodes import COLUMNS, all_episodes, episode_page, filter_condition
from esper_ray.karn.questions.tables import LogTables
from esper_ray.leyline.errors import UsageError


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    tables = LogTables(run_of(tmp_path_factory.mktemp("runs"), small_records()))
    yield tables
    tables.close()


def numbers(page, column="episode"):
    return [row[column] for row in page["rows"]]


def test_a_row_has_what_the_log_has_of_an_episode(tables):
    rows = all_episodes(tables)
    assert [row["episode"] for row in rows] == [0, 1, 2, 3, 4, 5]
    # the builder: accuracies 25, 28, 29, 30 with a control at 25 of its own
    assert rows[0] == {
        "episode": 0, "env": 0, "round": 0, "steps": 4, "return": 1.0, "val_accuracy_pp": 30.0, "gain_pp": 5.0,
        "control_is_own": True, "growth_ratio": 1.5, "fossilized": 1, "pruned": 0, "rollback": None, "seed": 7,
        "peak_pp": 30.0, "loss_from_peak_pp": 0.0,
    }  # fmt: skip
    assert rows[3]["rollback"] == "loss_spike"
    assert (rows[5]["gain_pp"], rows[5]["control_is_own"]) == (21.0, False)


@pytest.mark.parametrize("sort", COLUMNS)
@pytest.mark.parametrize("descending", [False, True])
def test_every_column_sorts_and_unknown_values_come_last(tables, sort, descending):
    values = numbers(episode_page(tables, sort, descending=descending), sort)
    known = [value for value in values if value is not None]
    assert known == sorted(known, reverse=descending)
    assert values == known + [None] * (len(values) - len(known))


def test_pages_have_all_rows_once(tables):
    pages = [episode_page(tables, "episode", descending=False, offset=offset, limit=4) for offset in (0, 4, 8)]
    assert [numbers(page) for page in pages] == [[0, 1, 2, 3], [4, 5], []]
    assert [page["total"] for page in pages] == [6, 6, 6]


@pytest.mark.parametrize(
    ("words", "episodes"),
    [
        ("env=1", [1, 3, 5]), ("round=2", [2, 3]), ("accuracy>=40", [2, 4, 5]), ("rollback", [3]), ("4", [4]),
        ("env:0 accuracy<35", [0]), ("gain>0 fossilized=1", [0, 2, 4]), ("env=7", []), ("", [0, 1, 2, 3, 4, 5]),
        ("return!=1", []), ("val_accuracy_pp>49.5", [4]),
    ],
)  # fmt: skip
def test_conditions_filter(tables, words, episodes):
    page = episode_page(tables, "episode", descending=False, words=words)
    assert (numbers(page), page["total"]) == (episodes, len(episodes))


@pytest.mark.parametrize(
    "words", ["x", "env", "env=a", "1=1", "env=1;", "env=1--", "' OR 1", "rollback=1", "sq=1", "9" * 30 + "x"]
)
def test_another_condition_is_refused_with_an_example(words):
    with pytest.raises(UsageError, match="write conditions such as env=3"):
        filter_condition(words)


def test_an_unknown_column_is_refused(tables):
    with pytest.raises(UsageError, match="it must be one of episode, env"):
        episode_page(tables, 'episode"; DROP')
