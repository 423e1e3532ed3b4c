"""Fixtures and settings that all tests share."""

import atexit
import gc
import logging
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from esper_actors.cluster.settings import choose_ray_settings
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.config.run import RunConfig

os.environ.update(
    ESPER_STRICT_TELEMETRY="1",  # a record that is not as declared is an error in tests
    RAY_worker_niceness="0",  # with Ray's 15 its workers would wait for all other tests
)
choose_ray_settings()  # before any test module imports Ray, which reads them once
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` and background jobs of a script leave these ignored,
signal.signal(signal.SIGINT, signal.default_int_handler)  # and tests send them
torch.set_num_threads(1)
for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch")]:
    logging.getLogger(name).propagate = True  # pytest attaches itself to every other logger, six times a test
gc.disable()  # until the tests are collected: what lives then lives to the end
atexit.register(gc.unfreeze)
# The speed of the machine is not a property of the code, so no example has a deadline.
settings.register_profile("default", deadline=None, max_examples=25)
settings.register_profile("fast", deadline=None, max_examples=5)
settings.register_profile("nightly", deadline=None, max_examples=200)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

LONGEST_SECONDS = 10.0
PATIENCE_BESIDE_OTHERS = 2.5
"""Factor of ``LONGEST_SECONDS`` in a process that shares the machine with others: there CPU time grows too."""
MOST_PATIENCE = 3.0
"""Factor of ``LONGEST_SECONDS`` on the clock of a busy machine."""
VIEWERS = [Path(__file__).parent / "karn" / name for name in ("overwatch", "sanctum")]
"""Folders whose tests draw and serve runs; each is marked ``integration``."""
CPU_AT_START = pytest.StashKey[float]()
TINY = {
    "episode_length": 5,
    "training.steps_per_epoch": 2,
    "policy.memory_size": 16,
    "policy.feature_size": 16,
    "ppo.rounds": 2,
    "ppo.epochs": 2,
    "system.envs": 3,
    "system.envs_per_actor": 2,
}
"""Overrides that make the digits preset a matter of seconds."""


@pytest.fixture(scope="session")
def tiny_config() -> RunConfig:
    """The digits preset, very small."""
    return build(read_preset("digits"), TINY)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local cluster with two CPUs for all tests that need Ray, started on first use."""
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Options of a URI by which a bucket of an S3 server of this process is reached."""
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        try:
            host, port = server.get_host_and_port()
            yield f"region=us-east-1&scheme=http&endpoint_override={host}:{port}"
        finally:
            server.stop()


@pytest.fixture
def s3_bucket(s3_server: str) -> Callable[[str], str]:
    """URI of a folder in a new bucket."""
    from pyarrow import fs

    bucket = f"bucket-{uuid.uuid4().hex}"
    maker, _ = fs.FileSystem.from_uri(f"s3://{bucket}?{s3_server}&allow_bucket_creation=true")
    maker.create_dir(bucket)
    return lambda folder: f"s3://{bucket}/{folder}?{s3_server}"


def used_cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A set-up or a test over ``LONGEST_SECONDS`` without the marker ``slow`` fails.

    It is over if it uses more CPU time, or takes longer on the clock; on a busy machine the clock gets more. Beside
    other processes of the same suite both get more, so that a slow machine fails no test that is fast elsewhere.
    """
    report = yield
    cpu = used_cpu() - item.config.stash[CPU_AT_START]
    item.config.stash[CPU_AT_START] = used_cpu()
    clock = call.duration / min(max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)), MOST_PATIENCE)
    seconds = max(cpu, clock)
    longest = LONGEST_SECONDS * (PATIENCE_BESIDE_OTHERS if "PYTEST_XDIST_WORKER" in os.environ else 1.0)
    if call.when != "teardown" and report.passed and seconds > longest and "slow" not in item.keywords:
        report.outcome = "failed"
        report.longrepr = (
            f"{call.when}: {cpu:.1f} CPU seconds, {call.duration:.1f} s on the clock; "
            f"a test over {longest:g} s needs the marker `slow`"
        )
    return report


def pytest_collection_finish(session: pytest.Session) -> None:
    """The first test is measured from here; modules and items are no longer searched for garbage."""
    gc.freeze()
    gc.enable()
    session.config.stash[CPU_AT_START] = used_cpu()


def ray_group(path: Path) -> str | None:
    """Group of a test file that uses Ray: ``ray`` if it needs the shared cluster, else ``own-ray``."""
    text = path.read_text(encoding="utf-8")
    if "pytest.mark.ray" not in text:
        return None
    return "ray" if "ray_cluster" in text else "own-ray"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """GPU tests are skipped where there is no GPU; files with Ray come first, then files with slow tests."""
    drawn = {path for path in {item.path for item in items} if any(folder in path.parents for folder in VIEWERS)}
    for item in items:
        if item.path in drawn:
            item.add_marker("integration")
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))
    with_ray, slow = ({item.path for item in items if name in item.keywords} for name in ("ray", "slow"))
    items.sort(key=lambda item: (item.path not in with_ray, item.path not in slow))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of one file run in one process, and so do all files of a group of :func:`ray_group`, one after the other.

    The files of the group ``ray`` share a cluster; those of ``own-ray`` start clusters in other processes.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByGroupOrFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return groups.setdefault(path, ray_group(config.rootpath / path) or path)

    groups: dict[str, str] = {}
    return ByGroupOrFile(config, log)
