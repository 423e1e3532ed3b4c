"""Failures of a run: what they mean, what is safe, and the command that resumes it."""

import shlex
from pathlib import Path

from esper_actors.training.checkpoint import checkpoints_in, finished_rounds
from esper_ray.leyline.errors import UserError
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.tolaria.device_memory import is_out_of_memory

MEMORY_ADVICE = (
    "use fewer environments per actor (system.envs_per_actor), a smaller batch (training.batch_size) or host, or a "
    "machine with more memory"
)


class RunMemoryError(UserError):
    """A run that ended because a machine or a device had no memory left."""

    exit_code = 1
    remedy = f"Free memory, or {MEMORY_ADVICE}; then resume with the printed command, or start a new run."


def describe_error(error: BaseException) -> str:
    """Type and message of an error; without memory also what to do."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"{text}; {MEMORY_ADVICE}" if is_out_of_memory(error) else text


def failure_of(error: BaseException) -> BaseException:
    """``error``, or a :class:`RunMemoryError` in its place if it means that there is no memory."""
    is_raw = is_out_of_memory(error) and not isinstance(error, UserError)
    return RunMemoryError(describe_error(error)) if is_raw else error


def recovery_notes(failure: BaseException, run: RunDirectory, rounds: int, copy: str | None = None) -> list[str]:
    """What is safe after a failure, and the command that resumes the run.

    Args:
        failure: requests that cannot be executed, and exits of the program, have no notes.
        rounds: number of rounds of the whole run.
        copy: place of the copy of the run in a storage.
    """
    if not isinstance(failure, Exception) or (isinstance(failure, UserError) and failure.exit_code != 1):
        return []
    checkpoints = checkpoints_in(run.checkpoints)
    if checkpoints:
        newest, place = checkpoints[-1], str(run.path)
        safe = f"safe: {newest}, after {finished_rounds(newest)} of {rounds} rounds"
    elif copy is not None:
        place = copy if "://" in copy else Path(copy).as_uri()
        safe = f"safe: the copy {copy}; {run.path} has no complete checkpoint"
    else:
        return [f"{run.path} has no complete checkpoint"]
    return [safe, f"resume with: esper train ppo --resume {shlex.quote(place)}"]
