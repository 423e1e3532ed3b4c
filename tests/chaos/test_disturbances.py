"""Runs of the command line that are disturbed: what they say, and results equal to those of an undisturbed run."""

import pytest
from disturbances import DISTURBANCES, disturbed, undisturbed

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return undisturbed(tmp_path_factory.mktemp("reference"))


@pytest.mark.parametrize("row", DISTURBANCES, ids=lambda row: row.name)
def test_a_disturbed_run_says_what_is_safe_and_resumes_without_a_difference(row, reference, tmp_path):
    assert disturbed(tmp_path, row, reference).problems(row) == []
