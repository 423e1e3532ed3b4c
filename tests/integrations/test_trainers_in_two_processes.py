"""A whole life under DistributedDataParallel in the trainers of other libraries."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.nightly, pytest.mark.slow, pytest.mark.integration]
BUILDERS = Path(__file__).parents[1] / "builders" / "networks"


@pytest.mark.parametrize("trainer", ["lightning", "transformers"])
def test_both_processes_grow_the_same_network(trainer, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    answer = subprocess.run(
        [*command, BUILDERS / "trainer_programs.py", trainer, tmp_path],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    results = re.findall(r"result (\w+) (\d+) (\S+)", answer.stdout)
    assert len(results) == 2, answer.stderr[-3000:]
    assert results[0] == results[1]
    _, examples, operations = results[0]
    assert examples == "64"
    assert operations.startswith("GERMINATE,")
    assert "FOSSILIZE" in operations
