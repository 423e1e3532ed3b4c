"""Worker group on Ray: results equal those of the local worker group."""

import pytest
from run_builders import placed

from esper_actors.factory import make_workers
from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import Interrupted
from esper_actors.session import train
from esper_actors.training.checkpoint import checkpoints_in, load_checkpoint
from esper_actors.training.workers import Watch, play_round
from esper_policies.bundle import weights_digest
from esper_ray.nissa.runs.observer import RunObserver
from esper_ray.nissa.runs.run_directory import RunDirectory

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(240)]


class RecordingObserver(RunObserver):
    """Observer that records episodes, rounds and faults."""

    def __init__(self):
        self.episodes, self.rounds, self.faults = [], [], []

    def episode_finished(self, episode):
        self.episodes.append(episode.index)

    def fault_occurred(self, fault):
        self.faults.append(fault)

    def round_finished(self, row, timing):
        self.rounds.append(row)


def run(config, folder, *, workers="ray", rounds=None, resume=None):
    """Play the rounds of ``config``; directory, digest of the weights, and observer."""
    config = placed(config, workers)
    directory = resume or RunDirectory.create(folder, config, ["test"])
    observer = RecordingObserver()
    stop = (lambda: len(observer.rounds) >= rounds) if rounds is not None else (lambda: False)
    train(config, run=directory, observers=[observer], should_stop=stop)
    state = load_checkpoint(checkpoints_in(directory.checkpoints)[-1], config)
    return directory, weights_digest(state.learner.weights()), observer


def without_run(directory):
    return [{k: v for k, v in event.items() if k != "run"} for event in directory.events()]


@pytest.fixture(scope="module")
def ray_run(tiny_config, tmp_path_factory, ray_cluster):
    """One run on Ray, shared by the tests that only read it."""
    return run(tiny_config, tmp_path_factory.mktemp("ray"))


def test_ray_and_local_workers_give_the_same_bits(tiny_config, tmp_path, ray_run):
    on_ray, ray_digest, _ = ray_run
    serial, serial_digest, _ = run(tiny_config, tmp_path, workers="local")
    assert ray_digest == serial_digest
    assert (on_ray.path / "rounds.csv").read_bytes() == (serial.path / "rounds.csv").read_bytes()
    assert without_run(on_ray) == without_run(serial)


def test_every_episode_arrives_once(ray_run):
    _, _, observer = ray_run
    assert sorted(observer.episodes) == [0, 1, 2, 3, 4, 5]
    assert [row["episodes"] for row in observer.rounds] == [3, 3]


@pytest.mark.nightly
def test_a_run_started_with_local_workers_is_resumed_on_ray(tiny_config, tmp_path, ray_run):
    uninterrupted, digest, _ = ray_run
    started, _, _ = run(tiny_config, tmp_path, workers="local", rounds=1)
    assert len(started.rounds()) == 1
    resumed, resumed_digest, _ = run(tiny_config, tmp_path, resume=started)
    assert resumed_digest == digest
    assert (resumed.path / "rounds.csv").read_bytes() == (uninterrupted.path / "rounds.csv").read_bytes()


@pytest.mark.nightly
def test_episodes_keep_the_order_of_their_assignments_until_a_stop_request(tiny_config):
    assignments = [Assignment(index, index % 3, seed=index) for index in (4, 2, 0, 3)]
    with make_workers(tiny_config) as workers:
        episodes = play_round(workers, assignments, 0.1)
        assert [(e.index, e.seed) for e in episodes] == [(4, 4), (2, 2), (0, 0), (3, 3)]
        with pytest.raises(Interrupted):
            play_round(workers, [Assignment(0, 0, 0)], 0.0, Watch(print, print, lambda: True))


def test_gpus_that_the_cluster_lacks_are_refused_with_the_arithmetic(tiny_config):
    from esper_actors.cluster.placement import ResourceError

    devices = tiny_config.system.model_copy(update={"devices": ("cuda:0", "cuda:1")})
    config = tiny_config.model_copy(update={"system": devices})
    with (
        pytest.raises(ResourceError, match=r"needs 2 x 1 GPU, the cluster has 0"),
        make_workers(config),
    ):
        pass


def test_more_actors_than_the_cluster_has_cpus_are_refused_with_the_arithmetic(tiny_config):
    from esper_actors.cluster.placement import ResourceError

    many = tiny_config.system.model_copy(update={"envs": 30, "envs_per_actor": 1})
    config = tiny_config.model_copy(update={"system": many})
    message = r"needs 30 x 1 CPU, the cluster has 2"
    with pytest.raises(ResourceError, match=message), make_workers(config):
        pass
