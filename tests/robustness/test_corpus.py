"""The corpus: every damaged input is refused in one message with nothing changed, or has no effect.

``python -m pytest -m "" tests/robustness`` runs all cases. ``ESPER_CORPUS`` is the number of cases of each group,
``ESPER_CORPUS_SEED`` their seed; the cases of a smaller number are the first of a larger one.
"""

import os
import zlib
from importlib import import_module
from itertools import islice

import numpy as np
import pytest
from corpus.cases import judge, outcome
from corpus.scenes import make_scenes

pytestmark = pytest.mark.integration

GROUPS = (
    *("configuration", "flags", "checkpoints", "bundles", "episodes", "logs", "parquet", "sql", "data", "storage"),
    *("sweeps", "manifests"),
)
CASES = int(os.environ.get("ESPER_CORPUS", "80"))
EVERY = 10
"""One of so many cases is part of ``make test``."""
SEED = int(os.environ.get("ESPER_CORPUS_SEED", "21"))
NUMBERS = [pytest.param(number, marks=[pytest.mark.nightly] * bool(number % EVERY)) for number in range(CASES)]


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """Undamaged inputs."""
    return make_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="session")
def corpus(scenes):
    """``corpus(group)`` is the list of its cases, without repetitions."""

    def cases(group):
        if group not in groups:
            rng = np.random.default_rng([SEED, zlib.crc32(group.encode())])
            stream = import_module(f"corpus.groups.{group}").cases(rng, scenes)
            found = {}
            for case in islice(stream, 100 * CASES):
                found.setdefault(case.name, case)
                if len(found) == CASES:
                    break
            groups[group] = list(found.values())
        return groups[group]

    groups = {}
    return cases


@pytest.fixture(scope="session")
def undamaged(scenes, tmp_path_factory):
    """``undamaged(group, case)`` is the result of the case without its damage, found once for each attempt."""

    def result(group, case):
        attempt = case.reference or case.attempt
        if attempt not in results:
            folder = tmp_path_factory.mktemp("undamaged")
            scenes.lay_out(import_module(f"corpus.groups.{group}").INPUTS, folder)
            results[attempt] = outcome(attempt, folder)
        return results[attempt]

    results = {}
    return result


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("group", GROUPS)
def test_a_damaged_input_is_refused_or_has_no_effect(group, number, corpus, scenes, undamaged, tmp_path):
    case = corpus(group)[number]
    scenes.lay_out(import_module(f"corpus.groups.{group}").INPUTS, tmp_path)
    judge(case, tmp_path, lambda: undamaged(group, case))
