"""``esper submit``: a command of esper as a job on a Ray cluster."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esper_ray.leyline.errors import UsageError
from esper_ray.leyline.process.credentials import has_credentials, without_credentials

if TYPE_CHECKING:
    from esper_actors.jobs.client import JobClient

app = typer.Typer(add_completion=False)

INTERRUPTED = (129, 130, 143)
"""Exit codes with which a signal ends this program."""

CONTEXT = {"allow_interspersed_args": False}
"""What follows the first word of the command belongs to the job, with ``--`` or without."""


UPLOAD, JOB = "Upload", "Job"
WorkingDir = Annotated[Path, typer.Option(help="folder to upload; the job runs in it", rich_help_panel=UPLOAD)]
NoWorkingDir = Annotated[
    bool, typer.Option("--no-working-dir", help="upload nothing: the image holds the code", rich_help_panel=UPLOAD)
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(help="pattern of files to leave out, as in .gitignore; repeatable", rich_help_panel=UPLOAD),
]
SubmissionId = Annotated[
    str | None, typer.Option(help="name of the job; default: Ray generates one", rich_help_panel=JOB)
]
JobEnvironment = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="environment variable of job and actors; repeatable", rich_help_panel=JOB),
]
Metadata = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="metadata stored with the job; repeatable", rich_help_panel=JOB),
]
Interpreter = Annotated[
    str, typer.Option("--python", help="interpreter on the cluster, for example `uv run python`", rich_help_panel=JOB)
]
DriverCPUs = Annotated[float | None, typer.Option(min=0, help="CPUs reserved for the driver", rich_help_panel=JOB)]
DriverGPUs = Annotated[float | None, typer.Option(min=0, help="GPUs reserved for the driver", rich_help_panel=JOB)]
AnyVersion = Annotated[
    bool, typer.Option("--any-version", help="do not compare versions with the cluster", rich_help_panel=JOB)
]


@app.command(context_settings=CONTEXT)
def submit(
    context: typer.Context,
    command: Annotated[list[str] | None, typer.Argument(help="command of esper", metavar="-- COMMAND ...")] = None,
    address: Annotated[str | None, typer.Option(help="dashboard of the cluster, http://<head>:8265")] = None,
    follow: Annotated[str | None, typer.Option(metavar="ID", help="follow an existing job")] = None,
    stop: Annotated[str | None, typer.Option(metavar="ID", help="stop an existing job")] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="exit after the submission")] = False,
    working_dir: WorkingDir = Path("."),
    no_working_dir: NoWorkingDir = False,
    exclude: Exclude = None,
    submission_id: SubmissionId = None,
    env: JobEnvironment = None,
    metadata: Metadata = None,
    python: Interpreter = "python",
    entrypoint_num_cpus: DriverCPUs = None,
    entrypoint_num_gpus: DriverGPUs = None,
    any_version: AnyVersion = False,
) -> None:
    """Submit a command of esper as a job to a Ray cluster.

    Prints the logs of the job until it ends; the exit code is that of the job, 143 if it was stopped. Ctrl-C stops
    printing only: the job continues.

    Example: esper submit --address http://head:8265 -- train ppo --preset digits --run-id my-run
    """
    words = command or []
    _check_purpose(words, follow, stop)
    check_command(context.find_root().command, words)
    from esper_actors.jobs.package import choose_address, entrypoint, key_values

    variables, notes = key_values("--env", env or []), key_values("--metadata", metadata or [])
    where = choose_address(address, os.environ)
    from esper_actors.jobs.client import JobClient

    _quieten_ray()
    runtime: dict[str, Any] = {"env_vars": variables} if variables else {}
    if words and not no_working_dir:
        runtime |= _upload(working_dir, exclude or [])
    cluster = JobClient(where, any_version)
    if stop is not None:
        typer.echo(f"job {stop}: {'stopped' if cluster.stop(stop) else 'had ended before'}", err=True)
        return
    if follow is not None:
        raise SystemExit(_follow(cluster, follow))
    _note_temporary_folder(words)
    job = cluster.submit(
        entrypoint(words, python),
        submission_id,
        runtime_env=runtime,
        metadata=notes,
        entrypoint_num_cpus=entrypoint_num_cpus,
        entrypoint_num_gpus=entrypoint_num_gpus,
    )
    typer.echo(f"job {job} submitted to {without_credentials(where)}", err=True)
    if no_wait:
        typer.echo(_handles(job, where), err=True)
        typer.echo(job)
        return
    raise SystemExit(_follow(cluster, job))


def _check_purpose(words: list[str], follow: str | None, stop: str | None) -> None:
    if sum([bool(words), follow is not None, stop is not None]) != 1:
        raise UsageError(
            "exactly one is needed: a command (esper submit [OPTIONS] -- train ppo ...), --follow ID or --stop ID"
        )
    if any(has_credentials(word) for word in words):
        raise UsageError(
            "the command has a URI with credentials, and Ray shows the command of a job to everyone with access to "
            "the dashboard: leave them out and give them to the cluster in its environment or a profile"
        )


def _quieten_ray() -> None:
    """Silence log lines of Ray that repeat the line about the upload."""
    for name in ("working_dir", "packaging"):
        logging.getLogger(f"ray._private.runtime_env.{name}").setLevel(logging.ERROR)
    for name in ("dashboard_sdk", "job.sdk"):
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)


def _note_temporary_folder(words: list[str]) -> None:
    """Warn that the run directory of a training is lost after the job."""
    if words[0] == "train" and not any(word.startswith("--telemetry-dir") for word in words):
        typer.echo(
            "note: without --telemetry-dir the run is written to a folder that Ray deletes after the job", err=True
        )


def _upload(folder: Path, exclude: list[str]) -> dict[str, Any]:
    """The entries of the runtime environment that upload ``folder``.

    Raises:
        UserError: if the folder does not exist or is too large.
    """
    from esper_actors.jobs.client import package_size
    from esper_actors.jobs.package import EXCLUDES, MIB

    package = package_size(folder, exclude)
    package.refuse_if_too_large()
    typer.echo(f"shipping {package.root}: {len(package.sizes)} files, {package.total / MIB:.1f} MiB", err=True)
    return {"working_dir": str(package.root), "excludes": [*EXCLUDES, *exclude]}


def _follow(cluster: "JobClient", job: str) -> int:
    """Logs to standard output until the job ends; its exit status."""
    try:
        code = cluster.follow(job, lambda text: typer.echo(text, nl=False))
    except SystemExit as end:
        if end.code in INTERRUPTED:
            typer.echo(f"\nno longer following; job {job} continues\n{_handles(job, cluster.address)}", err=True)
        raise
    if code:
        typer.echo(f"job {job} {cluster.reason(job)}", err=True)
    return code


def _handles(job: str, address: str) -> str:
    address = without_credentials(address)
    return (
        f"  follow it: esper submit --address {address} --follow {job}\n"
        f"  stop it:   esper submit --address {address} --stop {job}"
    )


def check_command(root: Any, words: list[str]) -> None:
    """Parse the command of the job before anything is uploaded.

    Args:
        root: the command ``esper``.

    Raises:
        UsageError: if esper has no such command, or the command no such option.
    """
    if not words:
        return
    current, path = root, "esper"
    rest = words
    while (commands := getattr(current, "commands", None)) is not None:
        name = rest[0] if rest else "nothing"
        if name not in commands or (path, name) == ("esper", "submit"):
            choices = ", ".join(sorted(set(commands) - {"submit"}))
            raise UsageError(f"{path} {name}: no such command to run on a cluster; there are {choices}")
        current, path, rest = commands[name], f"{path} {name}", rest[1:]
    try:
        current.make_context(path, list(rest))
    except Exception as error:
        if not hasattr(error, "format_message"):  # by name, because typer may vendor its own click
            raise
        raise UsageError(f"{path}: {error.format_message()}") from error
