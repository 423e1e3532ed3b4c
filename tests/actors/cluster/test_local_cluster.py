"""Start of a local cluster: one retry, its message, leftovers and the warning of a late choice. No Ray is started."""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import psutil
import pytest
import ray

from esper_actors.cluster import local_cluster
from esper_actors.cluster.interruption import interruptible
from esper_actors.cluster.local_cluster import ClusterStartError, start_local
from esper_actors.training.stop_request import StopRequest

pytestmark = pytest.mark.integration

PATIENCE = "RAY_gcs_server_port_wait_time_s"


@pytest.fixture
def starts(monkeypatch, tmp_path):
    """Options and patience of every start; ``errors`` are raised in order, then starts succeed."""
    calls, errors = [], []

    def init(address, **options):
        calls.append((address, options, os.environ.get(PATIENCE)))
        if errors:
            raise errors.pop(0)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(local_cluster, "ray_folder", lambda: tmp_path)
    monkeypatch.delenv(PATIENCE, raising=False)
    return calls, errors


def test_a_start_is_local_without_dashboard_and_in_our_folder(starts, tmp_path):
    start_local(3)
    ((address, options, patience),) = starts[0]
    assert (address, options["num_cpus"], options["include_dashboard"], patience) == ("local", 3, False, None)
    assert options["_temp_dir"] == str(tmp_path)


def test_a_failed_start_is_repeated_once_with_more_patience(starts):
    calls, errors = starts
    errors.append(Exception("The current node timed out during startup."))
    start_local(2)
    assert [patience for *_, patience in calls] == [None, "120"]
    assert PATIENCE not in os.environ


def test_the_users_own_patience_is_kept(starts, monkeypatch):
    calls, errors = starts
    monkeypatch.setenv(PATIENCE, "7")
    errors.append(RuntimeError("Failed to start GCS."))
    start_local(2)
    assert [patience for *_, patience in calls] == ["7", "7"]
    assert os.environ[PATIENCE] == "7"


def test_two_failed_starts_are_one_line_with_load_and_serial(starts, monkeypatch):
    calls, errors = starts
    monkeypatch.setattr(os, "getloadavg", lambda: (7.25, 1.0, 1.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    errors += [Exception("first"), RuntimeError("\n\nFailed to start GCS.\nmore lines\n")]
    with pytest.raises(ClusterStartError) as raised:
        start_local(2)
    assert len(calls) == 2
    assert raised.value.exit_code == 2
    assert str(raised.value) == (
        "Ray did not start in two tries within 0 s: Failed to start GCS.; the load average is 7.2 on 2 CPUs: try again "
        "when the machine is less busy, or use --serial"
    )


def test_a_wrong_option_is_not_repeated(starts):
    calls, errors = starts
    errors.append(ValueError("num_gpus"))
    with pytest.raises(ValueError, match="num_gpus"):
        start_local(2)
    assert len(calls) == 1


SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_leftover_processes_of_a_failed_start_are_ended_and_others_are_not(starts, tmp_path):
    ours, other = subprocess.Popen([*SLEEP, f"--temp-dir={tmp_path}/session"]), subprocess.Popen(SLEEP)
    try:
        starts[1].append(RuntimeError("Failed to start GCS."))
        start_local(2)
        assert not psutil.pid_exists(ours.pid)
        assert other.poll() is None
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_start_that_does_not_react(starts, monkeypatch, tmp_path, number, code):
    """As native code of Ray does; its processes are ended, and the start is not repeated."""
    begun, released = threading.Event(), threading.Event()

    def never_ends(*_, **__):
        starts[0].append("start")
        begun.set()
        released.wait()

    def interrupt():
        begun.wait()
        os.kill(os.getpid(), number)

    monkeypatch.setattr(ray, "init", never_ends)
    ours = subprocess.Popen([*SLEEP, f"--temp-dir={tmp_path}/session"])
    threading.Thread(target=interrupt).start()
    began = time.monotonic()
    try:
        with pytest.raises(SystemExit) as ended, StopRequest() as stop, interruptible():
            start_local(2)
        assert time.monotonic() - began < 10
        assert (ended.value.code, stop(), starts[0]) == (code, False, ["start"])
        assert not psutil.pid_exists(ours.pid)
    finally:
        released.set()
        ours.kill()
        ours.wait()


@pytest.mark.parametrize(("ends", "code"), [(False, 143), (True, 0)])
def test_a_process_leaves_at_its_end_while_a_start_still_runs_in_it(ends, code):
    program = f"""
import atexit, threading
from esper_actors.cluster.local_cluster import _leave
ended = threading.Event()
atexit.register(print, "later handlers")
atexit.register(_leave, ended, 143)
print("flushed")
if {ends}:
    ended.set()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert done.stdout.split("\n")[0] == "flushed"
    assert ("later handlers" in done.stdout) == ends


def test_a_late_choice_of_settings_is_a_warning_and_an_early_one_is_none(starts, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start_local(1)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.168.0.7")
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    with pytest.warns(RuntimeWarning, match=r"listens on 192\.168\.0\.7 and not .*; call .*choose_ray_settings"):
        start_local(1)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")  # the user's own choice
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start_local(1)


def test_a_second_cluster_in_one_process_is_refused(starts, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with pytest.raises(RuntimeError, match="connected to a Ray cluster already"):
        start_local(1)
    assert starts[0] == []
