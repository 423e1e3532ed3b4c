"""Watch over the control processes of Ray: the GCS of the cluster, and the raylet of this machine.

When one of them dies nothing can be placed, restarted or fetched any more, and calls of Ray may wait for a minute
before Ray ends the program. A thread asks both ports every second; the run ends as soon as one of them has not
answered for a while.
"""

import os
import socket
import threading
import time
from collections.abc import Callable

import ray
from ray.exceptions import RayError

from esper_ray.leyline.errors import UserError

POLL_SECONDS = 0.5
ANSWER_SECONDS = 2.0
LOCAL_PATIENCE = 2.0
"""Seconds without an answer after which a process of our own cluster is given up; it is never started again."""
JOINED_PATIENCE = 30.0
"""Seconds for a joined cluster, whose GCS may be restarted. Ray itself ends the program after 60."""


LEAVE_SECONDS = 10.0
"""Seconds for the program to leave a lost cluster by itself; some calls of Ray wait until Ray ends the program."""


class ClusterLostError(UserError):
    """A cluster whose control process has died during a run."""

    exit_code = 1
    remedy = "Start the cluster again if it is not one of the run, then resume with the printed command."


class ControlProcesses:
    """The addresses of the control processes, asked by a thread from now on. Ray is connected."""

    def __init__(self, on_stuck: Callable[[ClusterLostError], None] | None = None) -> None:
        """
        Args:
            on_stuck: called by the thread if a process has died and :meth:`stop` does not follow soon.
        """
        self._on_stuck = on_stuck
        self._patience_s = JOINED_PATIENCE if "RAY_ADDRESS" in os.environ else LOCAL_PATIENCE
        context = ray.get_runtime_context()
        host, _, port = context.gcs_address.rpartition(":")
        node = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
        self._places = {
            "GCS": (host.strip("[]"), int(port)),
            "raylet": (node["NodeManagerAddress"], node["NodeManagerPort"]),
        }
        self._ended = threading.Event()
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._watch, name="control processes of Ray", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def lost(self) -> bool:
        """Whether a process has been given up."""
        return self._problem is not None

    def answer(self) -> bool:
        """Whether both answer at this moment."""
        return self._problem is None and all(_answers(place) for place in self._places.values())

    def confirm(self) -> None:
        """Check that both are alive, before a call that would wait for them.

        Raises:
            ClusterLostError: if one of them is not.
        """
        if not self.answer():
            self._await_verdict()
        self.check()

    def check(self) -> None:
        """Check that both are alive, as far as is known.

        Raises:
            ClusterLostError: if one of them is not.
        """
        if self._problem is not None:
            raise ClusterLostError(self._problem)

    def verdict(self, error: BaseException | None) -> ClusterLostError | None:
        """The error to raise in place of ``error`` if a process has died, or ``None``.

        An error of Ray may come before the process is given up, so that the verdict is awaited.
        """
        if isinstance(error, RayError | OSError) and not isinstance(error, UserError):
            self._await_verdict()
        if self._problem is None or not isinstance(error, Exception):
            return None
        return error if isinstance(error, ClusterLostError) else ClusterLostError(self._problem)

    def _await_verdict(self) -> None:
        deadline = time.monotonic() + self._patience_s + 2 * ANSWER_SECONDS
        while self._problem is None and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS / 10)

    def _watch(self) -> None:
        answered = dict.fromkeys(self._places, time.monotonic())
        while not self._ended.wait(POLL_SECONDS):
            for name, place in self._places.items():
                if _answers(place):
                    answered[name] = time.monotonic()
                elif time.monotonic() - answered[name] > self._patience_s:
                    self._problem = (
                        f"a control process of Ray has died: the {name} at {place[0]}:{place[1]} has not answered for "
                        f"{time.monotonic() - answered[name]:.0f} s"
                    )
                    if self._on_stuck is not None and not self._ended.wait(LEAVE_SECONDS):
                        self._on_stuck(ClusterLostError(self._problem))
                    return


def _answers(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, ANSWER_SECONDS).close()
    except OSError:
        return False
    return True
