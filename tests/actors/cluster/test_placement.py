"""Placement plans: resources of a run, their bundles, and the check against a cluster."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_actors.cluster.placement import ResourceError, make_plan
from esper_ray.leyline.config.system import SystemConfig


def plan(**settings):
    return make_plan(SystemConfig(**settings))


def test_every_actor_on_a_cpu_has_its_own_bundle():
    placement_plan = plan(envs=8, envs_per_actor=4)
    assert placement_plan.bundles == ({"CPU": 1.0}, {"CPU": 1.0})
    assert [place.bundle for place in placement_plan.environments] == [0, 1]
    assert placement_plan.learner.bundle is None
    assert placement_plan.describe() == (
        "environment actors need 2 x 1 CPU; learner no resources of its own; in all 2 CPU, PACK"
    )


def test_actors_on_one_gpu_share_its_bundle():
    placement_plan = plan(envs=4, devices=("cuda:0", "cuda:1"), device="cuda:1", threads=2, placement="spread")
    assert placement_plan.bundles == ({"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 1.0})
    assert [(place.device, place.bundle) for place in placement_plan.environments] == [
        ("cuda:0", 0),
        ("cuda:1", 1),
        ("cuda:0", 0),
        ("cuda:1", 1),
    ]
    assert [place.gpus for place in placement_plan.environments] == [1 / 2, 1 / 3, 1 / 2, 1 / 3]
    assert (placement_plan.learner.gpus, placement_plan.learner.bundle) == (1 / 3, 1)
    assert placement_plan.strategy == "SPREAD"


def test_a_learner_on_its_own_gpu_has_its_own_bundle():
    placement_plan = plan(envs=2, devices=("cuda:0",), device="cuda:1")
    assert placement_plan.bundles == ({"CPU": 2.0, "GPU": 1.0}, {"GPU": 1.0})
    assert placement_plan.learner.bundle == 1


def test_gpus_per_actor_sets_the_share_of_a_gpu():
    placement_plan = plan(envs=2, devices=("cuda:0",), gpus_per_actor=0.25)
    assert placement_plan.bundles == ({"CPU": 2.0, "GPU": 0.5},)
    assert "2 x 1 CPU + 0.25 GPU" in placement_plan.describe()


def test_more_than_a_whole_gpu_is_refused():
    with pytest.raises(ResourceError, match=r"cuda:0 is one GPU, but its 3 actors need 1.5 of it"):
        plan(envs=3, devices=("cuda:0",), gpus_per_actor=0.5)


def test_a_plan_beyond_the_cluster_is_refused_with_required_and_available_resources():
    placement_plan = plan(envs=2, devices=("cuda:0",))
    with pytest.raises(ResourceError, match=r"needs 2 x 0.5 GPU, the cluster has 0"):
        placement_plan.check([{"CPU": 8}])
    with pytest.raises(ResourceError, match=r"needs 2 x 1 CPU, the cluster has 1"):
        placement_plan.check([{"CPU": 1, "GPU": 1}])
    with pytest.raises(ResourceError, match=r"needs 3 x 0.333 GPU \+ 2 x 0.5 GPU = 2 GPU, the cluster has 1"):
        plan(envs=4, devices=("cuda:0", "cuda:1"), device="cuda:1").check([{"CPU": 9, "GPU": 1}])


def test_a_bundle_must_fit_on_one_node():
    placement_plan = plan(envs=4, devices=("cuda:0",))
    with pytest.raises(ResourceError, match=r"4 CPU \+ 1 GPU on one node; the cluster has 2 nodes with 3 CPU \+ 1 GPU"):
        placement_plan.check([{"CPU": 3, "GPU": 1}] * 2)


def test_bundles_that_fit_singly_but_not_together_are_refused():
    placement_plan = plan(envs=3, envs_per_actor=1, threads=2)
    placement_plan.check([{"CPU": 4}, {"CPU": 2}])
    with pytest.raises(ResourceError, match=r"needs 3 x \(2 CPU\) placed PACK; the cluster has 2 nodes with 3 CPU"):
        placement_plan.check([{"CPU": 3}, {"CPU": 3}])


@pytest.mark.parametrize(
    ("placement", "nodes", "fits"),
    [
        ("strict_pack", [2, 2], False),
        ("strict_pack", [3, 1], True),
        ("strict_spread", [3, 1], False),
        ("strict_spread", [1, 1, 1], True),
        ("pack", [2, 1], True),
        ("spread", [3, 0], True),
    ],
)
def test_the_placement_strategy_decides_whether_a_plan_fits(placement, nodes, fits):
    placement_plan = plan(envs=3, placement=placement)
    cluster = [{"CPU": cpus} for cpus in nodes]
    if fits:
        placement_plan.check(cluster)
    else:
        with pytest.raises(ResourceError, match=placement.upper()):
            placement_plan.check(cluster)


@given(
    st.integers(1, 40),
    st.integers(1, 8),
    st.lists(st.sampled_from(["cpu", "cuda:0", "cuda:1", "cuda:2"]), min_size=1, max_size=6),
    st.sampled_from(["cpu", "cuda:0", "cuda:3"]),
)
def test_bundles_hold_the_resources_of_their_actors(envs, per_actor, devices, learner):
    placement_plan = plan(envs=envs, envs_per_actor=per_actor, devices=devices, device=learner)
    places = [place for place in (*placement_plan.environments, placement_plan.learner) if place.bundle is not None]
    for index, bundle in enumerate(placement_plan.bundles):
        inside = [place for place in places if place.bundle == index]
        assert sum(place.cpus for place in inside) == pytest.approx(bundle.get("CPU", 0))
        assert sum(place.gpus for place in inside) == pytest.approx(bundle.get("GPU", 0), abs=1e-4)
        assert bundle.get("GPU", 0) <= 1
    served = {place.device for place in placement_plan.environments}
    assert served == set(devices[: max(envs, 1)]) or envs < len(devices)
    placement_plan.check([{"CPU": placement_plan.total("CPU"), "GPU": placement_plan.total("GPU")}])
