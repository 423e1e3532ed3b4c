"""Episodes of an evaluation: scores computed by hand, and controls built from the final network."""

from dataclasses import replace

import pytest
import torch
from variants import rest_at_night

from esper_actors.evaluation.candidates import SCRATCH, WIDE, Candidate
from esper_actors.evaluation.evaluator import Evaluator, FinalNetwork, host_parameter_count, unique_labels, widened_host
from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import EpisodeRunner, Interrupted
from esper_policies.baselines import RandomPolicy, ScriptLine
from esper_policies.network import PolicyNetwork
from esper_policies.scripts import BASELINES
from esper_ray.environment import make_environment
from esper_ray.leyline.actions import GerminationStyle
from esper_ray.leyline.config.host import CNNHostConfig, MLPHostConfig, TransformerHostConfig
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.config.run import PolicyConfig
from esper_ray.runtime.host import PlantedSeed
from esper_ray.tolaria.tasks import load_task

pytestmark = pytest.mark.integration

SMALL = {
    "episode_length": 8,
    "training.steps_per_epoch": 2,
    "training.batch_size": 16,
    "task.validation_size": 50,
    "task.test_size": 50,
    "growth.unfinished_births": "allow",
    "growth.min_training_epochs": 1,
    "growth.min_blending_epochs": 1,
    "growth.min_gradient_health": 0.0,
}
LINEAR = GerminationStyle.LINEAR_ADD
GROWS = Candidate(
    "grows",
    script=(ScriptLine(epoch=0, op="germinate", slot=1), ScriptLine(epoch=7, op="germinate", slot=0, blueprint="norm")),
)
"""Germinates a convolution of four channels, which blends in early, and a norm in the last epoch."""
STATIC, RANDOM = Candidate("static", baseline="static"), Candidate("random", baseline="random")


def small_config(**changes):
    return build(read_preset("digits"), SMALL | {key.replace("__", "."): value for key, value in changes.items()})


@pytest.fixture(scope="module")
def evaluator():
    return Evaluator(small_config())


@pytest.fixture(scope="module")
def grown(evaluator):
    return evaluator.play(GROWS, 3)


def test_a_score_equals_its_terms_computed_by_hand(evaluator, grown):
    """Three slots of 2, 4 and 8 channels on a host of 160 parameters."""
    env, score = evaluator.env, evaluator.play(GROWS, 3).score
    assert score == grown.score
    conv = 9 * 4 * 4 + 3 * 4
    assert (score.policy, score.seed) == ("grows", 3)
    assert score.seeds_grown == (("r0c0", "norm"), ("r0c1", "conv_light"))
    assert score.parameters == 160 + score.grown_parameters
    assert score.grown_parameters == conv + env.reports[0].parameters
    assert score.val_accuracy_pp == env.measured.accuracy_pp
    assert score.test_accuracy_pp == env.test_measurement().accuracy_pp
    assert score.test_accuracy_pp != score.val_accuracy_pp
    price = 100.0 * 0.1 / 2000
    assert score.objective_pp == pytest.approx(score.val_accuracy_pp - price * score.grown_parameters)
    assert score.total_reward == pytest.approx(env.ledger.total())
    assert (score.rollbacks, score.fossilized) == (0, 0)
    assert score.train_flops > evaluator.play(STATIC, 3).score.train_flops > 0


def test_the_final_network_lists_its_seeds(grown):
    conv, norm = (
        PlantedSeed(slot, blueprint, LINEAR) for slot, blueprint in (("r0c1", "conv_light"), ("r0c0", "norm"))
    )
    assert grown.final == FinalNetwork(grown.score.parameters, (norm, conv))


def test_an_evaluated_episode_equals_that_of_the_training_runner():
    """Runner and evaluator play the same steps; they differ in what they report at the end."""
    score = Evaluator(small_config(episode_length=12)).play(RANDOM, 5).score
    env = make_environment("digits", SMALL | {"episode_length": 12})
    episode = EpisodeRunner(env, RandomPolicy()).play(Assignment(0, 0, 5))
    assert score.total_reward == episode.total_reward
    assert score.val_accuracy_pp == episode.val_accuracy_pp
    assert score.committed_accuracy_pp == episode.committed_accuracy_pp
    assert score.parameters == pytest.approx(160 * episode.growth_ratio)


@pytest.mark.parametrize(
    "candidate", [RANDOM, Candidate("heuristic", baseline="heuristic")], ids=lambda candidate: candidate.label
)
def test_equal_seeds_give_equal_scores_in_any_order(evaluator, candidate):
    first = evaluator.play(candidate, 11)
    second = evaluator.play(candidate, 12)
    assert evaluator.play(candidate, 11) == first == Evaluator(evaluator.config).play(candidate, 11)
    assert replace(second.score, seed=11) != first.score


def test_controls_without_growth_equal_the_static_policy(evaluator):
    """For each seed, bit for bit, training cost included."""
    for seed in (3, 4):
        static = evaluator.play(STATIC, seed)
        assert static.final == FinalNetwork(160, ())
        for kind in (WIDE, SCRATCH):
            control = evaluator.unsteered(kind, seed, static.final).score
            assert control == replace(static.score, policy=kind, total_reward=None)


def test_the_network_from_scratch_is_the_final_network_with_all_seeds_committed(evaluator, grown):
    evaluation = evaluator.unsteered(SCRATCH, 3, grown.final)
    score = evaluation.score
    assert evaluation.final == grown.final
    assert (score.parameters, score.grown_parameters) == (grown.score.parameters, grown.score.grown_parameters)
    assert (score.fossilized, score.total_reward, score.rollbacks) == (2, None, 0)
    assert score.seeds_grown == grown.score.seeds_grown
    price = 100.0 * 0.1 / 2000
    assert score.objective_pp == pytest.approx(score.val_accuracy_pp - price * score.grown_parameters)
    assert score.committed_accuracy_pp == pytest.approx(score.val_accuracy_pp)
    assert evaluator.unsteered(SCRATCH, 3, grown.final) == evaluation


@pytest.mark.parametrize("seed", rest_at_night(range(4)))
def test_networks_from_scratch_have_the_size_of_the_final_networks(seed):
    """With every style, changing operators and fading seeds."""
    settings = {"growth__styles": ["linear_add", "sigmoid_add", "gated_gate", "linear_multiply"], "episode_length": 25}
    evaluator = Evaluator(small_config(training__steps_per_epoch=1, **settings))
    evaluation = evaluator.play(RANDOM, seed)
    copy = evaluator.unsteered(SCRATCH, seed, evaluation.final)
    assert copy.final == evaluation.final
    assert copy.score.parameters == evaluation.score.parameters
    wide = evaluator.unsteered(WIDE, seed, evaluation.final)
    assert wide.score.parameters >= evaluation.score.parameters


def test_the_wide_host_pays_for_parameters_beyond_the_host(evaluator, grown):
    """It is the narrowest with at least as many parameters; the price counts them like grown ones."""
    score = evaluator.unsteered(WIDE, 3, grown.final).score
    assert score.parameters >= grown.final.parameters
    assert (score.grown_parameters, score.seeds_grown, score.fossilized) == (0, (), 0)
    price = 100.0 * 0.1 / 2000
    assert score.objective_pp == pytest.approx(score.val_accuracy_pp - price * (score.parameters - 160))


def test_controls_do_not_depend_on_the_evaluator(grown, evaluator):
    """An actor may run a control before any policy."""
    fresh = Evaluator(evaluator.config)
    for kind in (WIDE, SCRATCH):
        assert fresh.unsteered(kind, 3, grown.final) == evaluator.unsteered(kind, 3, grown.final)


@pytest.mark.parametrize(
    ("host", "field", "unit"),
    [
        (CNNHostConfig(), "base_channels", 1),
        (MLPHostConfig(width=4, blocks=2), "width", 1),
        (TransformerHostConfig(embedding=8, heads=4, layers=3, context=16), "embedding", 4),
    ],
    ids=["cnn", "mlp", "transformer"],
)
@pytest.mark.parametrize("more", [0, 1, 77, 3000])
def test_a_widened_host_is_the_narrowest_with_enough_parameters(host, field, unit, more, tmp_path):
    task = small_config().task
    if isinstance(host, TransformerHostConfig):
        (tmp_path / "input.txt").write_text("abcdefgh" * 300)
        changes = {"name": "text", "data_dir": tmp_path, "block_size": 16, "validation_size": 4, "test_size": 4}
        task = task.model_copy(update=changes)
    data = load_task(task, torch.device("cpu"))
    required_parameters = host_parameter_count(host, data) + more
    widened = widened_host(host, data, required_parameters)
    width = getattr(widened, field)
    assert widened == host.model_copy(update={field: width})
    assert host_parameter_count(widened, data) >= required_parameters
    assert (
        width == getattr(host, field)
        or host_parameter_count(host.model_copy(update={field: width - unit}), data) < required_parameters
    )
    assert (width == getattr(host, field)) == (more == 0)


def test_counting_parameters_leaves_the_global_generator_unchanged():
    data = load_task(small_config().task, torch.device("cpu"))
    before = torch.get_rng_state()
    assert host_parameter_count(CNNHostConfig(), data) == 160
    assert torch.equal(torch.get_rng_state(), before)


def test_a_host_that_cannot_be_wide_enough_is_refused(monkeypatch):
    monkeypatch.setattr("esper_actors.evaluation.evaluator.WIDEST", 6)
    data = load_task(small_config().task, torch.device("cpu"))
    with pytest.raises(ValueError, match="no host with base_channels up to 6 has 100000 parameters"):
        widened_host(CNNHostConfig(), data, 100_000)


def test_an_unknown_control_is_refused(evaluator, grown):
    with pytest.raises(
        ValueError, match="unknown control 'tall-host'; there are wide-host, from-scratch, from-scratch-flops"
    ):
        evaluator.unsteered("tall-host", 0, grown.final)


def test_policies_and_controls_are_interrupted_between_epochs(evaluator, grown):
    stop_requests = []

    def stop():
        stop_requests.append(1)
        return len(stop_requests) > 2

    with pytest.raises(Interrupted):
        evaluator.play(GROWS, 0, stop)
    assert len(stop_requests) == 3
    stop_requests.clear()
    with pytest.raises(Interrupted):
        evaluator.unsteered(WIDE, 0, grown.final, stop)
    assert len(stop_requests) == 3
    assert evaluator.play(GROWS, 3) == grown


def test_freeze_fossils_does_not_freeze_a_network_from_scratch():
    free, frozen = (Evaluator(small_config(growth__freeze_fossils=freeze)) for freeze in (False, True))
    final = FinalNetwork(0, (PlantedSeed("r0c0", "conv_light", LINEAR),))
    assert frozen.unsteered(SCRATCH, 1, final) == free.unsteered(SCRATCH, 1, final)


def test_a_rollback_ends_an_episode_and_is_counted(monkeypatch):
    evaluator = Evaluator(small_config())
    governor = "esper_ray.tolaria.governor.Governor.judge"
    from esper_ray.tolaria.governor import HealthVerdict as Judgement

    monkeypatch.setattr(governor, lambda *_: Judgement(True, False, "nerves", 1.0, 0.0))
    score = evaluator.play(STATIC, 0).score
    assert score.rollbacks == 1
    assert evaluator.unsteered(WIDE, 0, FinalNetwork(160, ())).score.rollbacks == 8


def test_compilation_is_switched_off_to_count_operations():
    assert Evaluator(small_config(training__compile_mode="default")).config.training.compile_mode == "off"


@pytest.fixture(scope="module")
def learned():
    """A learned policy with random weights."""
    config = PolicyConfig(feature_size=16, memory_size=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = PolicyNetwork(config)
    return Candidate("learned", config=config, weights=network.state_dict())


def test_the_greedy_flag_selects_greedy_or_sampled_actions(learned):
    greedy, sampling = (Evaluator(small_config(), greedy=flag) for flag in (True, False))
    limits = greedy.env.limits
    assert learned.policy(limits, "digits", "cpu", greedy=True).greedy
    policy = learned.policy(limits, "digits", "cpu", greedy=False)
    assert (policy.greedy, policy.epsilon) == (False, 0.0)
    for evaluator in (greedy, sampling):
        assert evaluator.play(learned, 2) == evaluator.play(learned, 2)


def test_repeated_labels_get_a_number():
    candidates = [Candidate(label, baseline="random") for label in ("a", "b", "a", "a", "a-2", "b")]
    assert [candidate.label for candidate in unique_labels(candidates)] == ["a", "b", "a-3", "a-4", "a-2", "b-2"]


def test_names_of_baselines_and_controls_stay_reserved():
    """Otherwise the control `static` could be another candidate."""
    assert set(BASELINES) == {"heuristic", "random", "static", "schedule", "oracle"}
    script = Candidate("static", script=())
    run = Candidate("wide-host", config=PolicyConfig())
    candidates = unique_labels([script, run, STATIC, STATIC])
    assert [candidate.label for candidate in candidates] == ["static-2", "wide-host-2", "static", "static-3"]
