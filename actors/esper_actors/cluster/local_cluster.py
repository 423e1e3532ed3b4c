"""Start of a local cluster: on the loopback interface, in a folder of this user, with one retry.

Ray starts in a thread of its own, because its native code does not react to signals, and would lose an exception of a
handler. So the main thread can be interrupted at any time.
"""

import atexit
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ray

# isort: split
import psutil  # Ray brings it along and makes it importable

from esper_actors.cluster.ray_folder import ray_folder
from esper_ray.leyline.errors import UserError

PATIENCE = {"RAY_gcs_server_port_wait_time_s": "120"}
"""Settings of the second start: seconds until Ray's first process must answer (30 in the first start)."""
LOOPBACK = ("127.0.0.1", "::1")
INTERRUPTED = 130
"""Exit code after Ctrl-C."""
END_SECONDS = 1.0
"""Longest wait for the end of an interrupted start."""
LOOK_SECONDS = 0.1
"""Longest time until the main thread sees a signal. One that another thread received does not wake it."""


class ClusterStartError(UserError):
    """A local cluster that does not start. Mostly the machine is busy or out of memory."""

    remedy = "Wait until the machine is less busy, or train in one process with `--serial`."


def start_local(cpus: int) -> None:
    """Start a cluster on this machine and connect to it. A failed start is repeated once, with more patience.

    Raises:
        RayFolderError: if there is no folder for it.
        ClusterStartError: if it does not start, with the load of the machine.
        RuntimeError: if this process is connected to a cluster.
    """
    folder = ray_folder()
    _warn_if_reachable()
    if ray.is_initialized():
        raise RuntimeError("this process is connected to a Ray cluster already")
    began = time.monotonic()
    try:
        _Start(cpus, folder).wait()
    except (TypeError, ValueError, AttributeError):  # no matter of time
        raise
    except Exception:
        try:
            with _patience():
                _Start(cpus, folder).wait()
        except Exception as error:
            raise ClusterStartError(_described(error, time.monotonic() - began)) from error


class _Start:
    """One start of Ray, in a thread of its own.

    The thread lives as long as the cluster: Linux ends the processes of a cluster with the thread that started them.
    """

    def __init__(self, cpus: int, folder: Path) -> None:
        self._cpus, self._folder = cpus, folder
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ray", daemon=True)

    def wait(self) -> None:
        """Start Ray and wait for it. After a failure or an interruption no process of it is left.

        Raises:
            Exception: of ``ray.init``.
        """
        try:
            self._thread.start()
            while not self._ended.wait(LOOK_SECONDS):
                pass
        except BaseException as signalled:
            _end_processes(self._folder)
            self._ended.wait(END_SECONDS)
            if self._ended.is_set():
                ray.shutdown()
            elif self._thread.is_alive():
                code = signalled.code if isinstance(signalled, SystemExit) else None
                atexit.register(_leave, self._ended, code if isinstance(code, int) else INTERRUPTED)
            raise
        if self._error is not None:
            ray.shutdown()
            _end_processes(self._folder)
            raise self._error

    def _run(self) -> None:
        log = logging.getLogger("ray._private.worker")
        level = log.level
        log.setLevel(logging.ERROR)  # Ray warns that this is not the main thread
        try:
            # Ray's processes never receive SIGHUP: a closed terminal must not end them before the run is saved
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
            ray.init(
                "local",
                num_cpus=self._cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="WARNING",
                _temp_dir=str(self._folder),
            )
        except BaseException as error:
            self._error = error
        finally:
            log.setLevel(level)
            self._ended.set()
        while self._error is None and ray.is_initialized():
            time.sleep(1.0)


def _leave(ended: threading.Event, code: int) -> None:
    """End the process without native destructors if a start still runs in it."""
    if not ended.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _end_processes(folder: Path) -> None:
    """End the children that belong to a cluster in ``folder``. They have nothing to save."""
    ours = [child for child in psutil.Process().children(recursive=True) if _uses(child, folder)]
    for process in ours:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(ours, END_SECONDS)


def _uses(process: psutil.Process, folder: Path) -> bool:
    try:
        return any(str(folder) in word for word in process.cmdline())
    except psutil.Error:  # it has ended
        return False


@contextmanager
def _patience() -> Iterator[None]:
    """Context with the settings of :data:`PATIENCE`, unless the user has set them."""
    added = {name: value for name, value in PATIENCE.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _warn_if_reachable() -> None:
    """Warn if Ray was imported too early, so that other machines reach the cluster."""
    address = ray.util.get_node_ip_address()
    if address not in LOOPBACK and os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "") != "1":
        warnings.warn(
            f"Ray was imported before esper-ray chose its settings, so the cluster of this process listens on "
            f"{address} and not only on 127.0.0.1; call esper_actors.cluster.settings.choose_ray_settings() before "
            "the first import of ray (in a notebook: restart the kernel first)",
            RuntimeWarning,
            stacklevel=4,
        )


def _described(error: Exception, seconds: float) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = lines[0] if lines else type(error).__name__
    return (
        f"Ray did not start in two tries within {seconds:.0f} s: {cause}; the load average is {os.getloadavg()[0]:.1f} "
        f"on {os.cpu_count() or 1} CPUs: try again when the machine is less busy, or use --serial"
    )
