"""Trials with local workers: requested resources and visible devices."""

import pytest

from esper_actors.cluster.placement import ResourceError
from esper_actors.sweep.resources import bundles, check_places
from esper_ray.leyline.config.loading import build


def system(**changes):
    return build({}, {f"system.{key}": value for key, value in changes.items()})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"envs": 8}, [{"CPU": 1.0}]),
        ({"envs": 8, "threads": 2, "learner_threads": 3}, [{"CPU": 3.0}]),
        ({"envs": 2, "devices": ["cuda:0"], "device": "cuda:0"}, [{"CPU": 1.0, "GPU": 1.0}]),
        ({"envs": 2, "devices": ["cuda:0", "cuda:1"]}, [{"CPU": 1.0, "GPU": 2.0}]),
        ({"envs": 1, "devices": ["cuda:0"], "gpus_per_actor": 0.25}, [{"CPU": 1.0, "GPU": 0.25}]),
    ],
)
def test_a_local_trial_requests_one_bundle(changes, expected):
    assert bundles(system(workers="local", **changes)) == expected


def test_a_trial_on_ray_requests_an_empty_bundle_and_those_of_its_actors():
    assert bundles(system(workers="ray", envs=2))[0] == {}
    assert len(bundles(system(workers="ray", envs=2))) > 1


def test_a_local_trial_fits_on_a_node_too_small_for_its_actors():
    node = {"CPU": 1.0}
    check_places({"local": system(workers="local", envs=64)}, [node])
    with pytest.raises(ResourceError, match="trial ray: the run needs"):
        check_places({"ray": system(workers="ray", envs=64)}, [node])


def test_a_local_trial_whose_gpus_are_on_no_single_node_is_refused():
    nodes = [{"CPU": 4.0, "GPU": 1.0}] * 2
    trial = system(workers="local", devices=["cuda:0", "cuda:1"], envs=2)
    with pytest.raises(ResourceError, match=r"trial both: the run needs 1 CPU \+ 2 GPU on one node"):
        check_places({"both": trial}, nodes)


def test_the_gpus_of_a_process_are_numbered_from_zero():
    from esper_actors.sweep.trainable import on_own_gpus

    on_own = on_own_gpus(system(workers="local", devices=["cuda:3", "cuda:1", "cuda:3"], device="cuda:1", envs=3))
    assert on_own.system.devices == ("cuda:0", "cuda:1", "cuda:0")
    assert on_own.system.device == "cuda:1"
    with_cpu_learner = on_own_gpus(system(workers="local", devices=["cuda:5"], device="cpu"))
    assert (with_cpu_learner.system.devices, with_cpu_learner.system.device) == (("cuda:0",), "cpu")
