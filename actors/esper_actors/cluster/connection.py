"""Connection to a Ray cluster, or start of one, with user errors."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray._private.worker import get_dashboard_url  # ray.init returns it to its caller alone
from ray.exceptions import AuthenticationError

from esper_actors.cluster.interruption import interruptible
from esper_actors.cluster.local_cluster import start_local
from esper_ray.leyline.errors import UserError, shortened

CONNECT_SECONDS = 5.0
NAMED_ADDRESSES = ("auto", "local")


class ClusterError(UserError):
    """A cluster that cannot be reached, or refuses the connection."""

    remedy = "Start a cluster at the address, or correct RAY_ADDRESS and the token."


def start_ray(cpus: float) -> None:
    """Join the cluster of ``RAY_ADDRESS``, or start one on this machine.

    A started cluster has at least ``cpus`` CPUs.

    A running cluster of this machine is joined only if ``RAY_ADDRESS`` names it. A signal to stop ends the start.

    Raises:
        ClusterError: if there is no cluster at the address, it is of another version, or it refuses our token.
        ClusterStartError: if a local cluster does not start.
        RayFolderError: if there is no folder for a local cluster.
    """
    address = os.environ.get("RAY_ADDRESS")
    with interruptible():
        if address is None:
            start_local(max(os.cpu_count() or 1, int(cpus)))
        else:
            _join(address)


def dashboard_links() -> dict[str, str]:
    """Address of Ray's dashboard by the name ``ray``; empty without one."""
    address = get_dashboard_url()
    return {"ray": f"http://{address}"} if address else {}


def _join(address: str) -> None:
    """Join the cluster at ``address``.

    Raises:
        ClusterError: see :func:`start_ray`.
    """
    _check_reachable(address)
    try:
        ray.init(log_to_driver=False)
    except AuthenticationError as error:
        raise ClusterError(
            f"the cluster at RAY_ADDRESS={address} refuses the token: {_first(error)}; set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to those of the cluster"
        ) from error
    except ConnectionError as error:
        raise ClusterError(f"there is no Ray cluster at RAY_ADDRESS={address}: {_first(error)}") from error
    except RuntimeError as error:
        if "ersion mismatch" not in str(error):
            raise
        raise ClusterError(f"the cluster at RAY_ADDRESS={address} is of another version: {error}") from error


@contextmanager
def connected(cpus: float) -> Iterator[None]:
    """Context with a connection to the cluster of :func:`start_ray`, or with the existing connection.

    Raises:
        ClusterError: see :func:`start_ray`.
    """
    if ray.is_initialized():
        yield
        return
    start_ray(cpus)
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Check that the address accepts connections. Ray itself would retry for a minute or for ever.

    Raises:
        ClusterError: if it is none of a cluster, or the connection fails within ``CONNECT_SECONDS``.
    """
    address_file = (
        Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    )  # where Ray looks for auto
    place = address_file.read_text().strip() if address == "auto" and address_file.is_file() else address
    scheme, _, location = place.rpartition("://")
    if place in NAMED_ADDRESSES or scheme not in ("", "ray"):
        return  # Ray resolves it
    host, _, port = location.rpartition(":")
    if not host.strip("[]:") or not (port.isascii() and port.isdecimal()):
        forms = f"HOST:PORT, ray://HOST:PORT or {' or '.join(NAMED_ADDRESSES)}"
        raise ClusterError(f"RAY_ADDRESS={shortened(address)} is not an address of a cluster: {forms} is expected")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"there is no Ray cluster at RAY_ADDRESS={address}: {error}") from error


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
