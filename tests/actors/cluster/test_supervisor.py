"""Errors of Ray: which of them mean that an actor has to be replaced, and their text."""

import pytest
import torch
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError

from esper_actors.cluster.supervisor import is_lost, reason
from esper_actors.training.failures import MEMORY_ADVICE


def of_task(cause):
    """The error of a call that raised ``cause`` in its actor."""
    return RayTaskError("play", "Traceback\nlast line", cause)


KILLED = OutOfMemoryError("Memory on the node was 31.2GB / 32.0GB.\nRay killed this worker.")


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (ActorDiedError(), True),
        (KILLED, True),
        (of_task(MemoryError()), True),
        (of_task(torch.OutOfMemoryError("CUDA out of memory")), True),
        (of_task(ValueError("no data")), False),
        (of_task(None), False),
    ],
)
def test_an_actor_that_is_dead_or_has_no_memory_is_lost(error, lost):
    assert is_lost(error) == lost


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KILLED, f"OutOfMemoryError: Memory on the node was 31.2GB / 32.0GB.; {MEMORY_ADVICE}"),
        (of_task(MemoryError()), f"MemoryError; {MEMORY_ADVICE}"),
        (of_task(ValueError("no data")), "ValueError: no data"),
        (of_task(None), "last line"),
    ],
)
def test_the_text_of_an_error_says_what_to_do_without_memory(error, text):
    assert reason(error) == text
