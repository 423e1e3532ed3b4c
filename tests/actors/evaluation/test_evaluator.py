"""Episodes for judgement: scores by hand, and the networks that are made after a final one."""

from dataclasses import replace

import pytest
import torch

from esper_actors.evaluation.candidates import BASELINES, SCRATCH, WIDE, Candidate
from esper_actors.evaluation.evaluator import Evaluator, FinalNetwork, host_parameter_count, unique_labels, widened_host
from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import EpisodeRunner, Interrupted
from esper_policies.baselines import RandomPolicy, ScriptLine
from esper_policies.network import PolicyNetwork
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
    "growth.min_training_epochs": 1,
    "growth.min_blending_epochs": 1,
    "growth.min_gradient_health": 0.0,
}
LINEAR = GerminationStyle.LINEAR_ADD
GROWS = Candidate(
    "grows",
    script=(ScriptLine(epoch=0, op="germinate", slot=1), ScriptLine(epoch=7, op="germinate", slot=0, blueprint="norm")),
)
"""Grows a convolution of four channels, which is soon amplified, and in its last epoch a norm."""
STATIC, RANDOM = Candidate("static", baseline="static"), Candidate("random", baseline="random")


def config_of(**changes):
    return build(read_preset("digits"), SMALL | {key.replace("__", "."): value for key, value in changes.items()})


@pytest.fixture(scope="module")
def evaluator():
    return Evaluator(config_of())


@pytest.fixture(scope="module")
def grown(evaluator):
    return evaluator.play(GROWS, 3)


def test_a_score_by_hand(evaluator, grown):
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
    assert (score.rollbacks, score.fossilised) == (0, 0)
    assert score.train_flops > evaluator.play(STATIC, 3).score.train_flops > 0


def test_the_final_network_names_what_has_grown_in_it(grown):
    conv, norm = (
        PlantedSeed(slot, blueprint, LINEAR) for slot, blueprint in (("r0c1", "conv_light"), ("r0c0", "norm"))
    )
    assert grown.final == FinalNetwork(grown.score.parameters, (norm, conv))


def test_a_judged_episode_is_the_episode_of_the_trainer():
    """The runner that trains policies and the evaluator play the same, but for what is looked at in the end."""
    judged = Evaluator(config_of(episode_length=12)).play(RANDOM, 5).score
    env = make_environment("digits", SMALL | {"episode_length": 12})
    episode = EpisodeRunner(env, RandomPolicy()).play(Assignment(0, 0, 5))
    assert judged.total_reward == episode.total_reward
    assert judged.val_accuracy_pp == episode.val_accuracy_pp
    assert judged.committed_accuracy_pp == episode.committed_accuracy_pp
    assert judged.parameters == pytest.approx(160 * episode.growth_ratio)


@pytest.mark.parametrize("entry", [RANDOM, Candidate("heuristic", baseline="heuristic")], ids=lambda entry: entry.label)
def test_equal_seeds_give_equal_scores_whatever_was_played_before(evaluator, entry):
    first = evaluator.play(entry, 11)
    other = evaluator.play(entry, 12)
    assert evaluator.play(entry, 11) == first == Evaluator(evaluator.config).play(entry, 11)
    assert replace(other.score, seed=11) != first.score


def test_the_host_alone_is_static(evaluator):
    """Seed by seed, to the last digit, also in what its training cost."""
    for seed in (3, 4):
        static = evaluator.play(STATIC, seed)
        assert static.final == FinalNetwork(160, ())
        for kind in (WIDE, SCRATCH):
            alone = evaluator.unsteered(kind, seed, static.final).score
            assert alone == replace(static.score, policy=kind, total_reward=None)


def test_the_network_from_scratch_is_the_final_network_with_all_of_it_committed(evaluator, grown):
    verdict = evaluator.unsteered(SCRATCH, 3, grown.final)
    score = verdict.score
    assert verdict.final == grown.final
    assert (score.parameters, score.grown_parameters) == (grown.score.parameters, grown.score.grown_parameters)
    assert (score.fossilised, score.total_reward, score.rollbacks) == (2, None, 0)
    assert score.seeds_grown == grown.score.seeds_grown
    price = 100.0 * 0.1 / 2000
    assert score.objective_pp == pytest.approx(score.val_accuracy_pp - price * score.grown_parameters)
    assert score.committed_accuracy_pp == pytest.approx(score.val_accuracy_pp)
    assert evaluator.unsteered(SCRATCH, 3, grown.final) == verdict


@pytest.mark.parametrize("seed", range(4))
def test_networks_from_scratch_are_as_large_as_what_random_policies_end_with(seed):
    """Every style, operators that change in mid-course, seeds that fade: counts must agree even so."""
    settings = {"growth__styles": ["linear_add", "sigmoid_add", "gated_gate", "linear_multiply"], "episode_length": 25}
    evaluator = Evaluator(config_of(training__steps_per_epoch=1, **settings))
    verdict = evaluator.play(RANDOM, seed)
    copy = evaluator.unsteered(SCRATCH, seed, verdict.final)
    assert copy.final == verdict.final
    assert copy.score.parameters == verdict.score.parameters
    wide = evaluator.unsteered(WIDE, seed, verdict.final)
    assert wide.score.parameters >= verdict.score.parameters


def test_the_wide_host_pays_for_what_it_has_beyond_the_host(evaluator, grown):
    """The narrowest with at least as many parameters; the price counts them as if they had grown."""
    score = evaluator.unsteered(WIDE, 3, grown.final).score
    assert score.parameters >= grown.final.parameters
    assert (score.grown_parameters, score.seeds_grown, score.fossilised) == (0, (), 0)
    price = 100.0 * 0.1 / 2000
    assert score.objective_pp == pytest.approx(score.val_accuracy_pp - price * (score.parameters - 160))


def test_controls_are_made_by_whoever_is_free_first(grown, evaluator):
    """An actor may be given a control before it has ever played a policy."""
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
def test_a_widened_host_is_the_narrowest_that_is_large_enough(host, field, unit, more, tmp_path):
    task = config_of().task
    if isinstance(host, TransformerHostConfig):
        (tmp_path / "input.txt").write_text("abcdefgh" * 300)
        changes = {"name": "text", "data_dir": tmp_path, "block_size": 16, "validation_size": 4, "test_size": 4}
        task = task.model_copy(update=changes)
    data = load_task(task, torch.device("cpu"))
    wanted = host_parameter_count(host, data) + more
    found = widened_host(host, data, wanted)
    width = getattr(found, field)
    assert found == host.model_copy(update={field: width})
    assert host_parameter_count(found, data) >= wanted
    assert (
        width == getattr(host, field)
        or host_parameter_count(host.model_copy(update={field: width - unit}), data) < wanted
    )
    assert (width == getattr(host, field)) == (more == 0)


def test_parameters_are_counted_without_touching_the_generator():
    data = load_task(config_of().task, torch.device("cpu"))
    before = torch.get_rng_state()
    assert host_parameter_count(CNNHostConfig(), data) == 160
    assert torch.equal(torch.get_rng_state(), before)


def test_a_host_that_cannot_be_wide_enough_is_refused(monkeypatch):
    monkeypatch.setattr("esper_actors.evaluation.evaluator.WIDEST", 6)
    data = load_task(config_of().task, torch.device("cpu"))
    with pytest.raises(ValueError, match="no host with base_channels up to 6 has 100000 parameters"):
        widened_host(CNNHostConfig(), data, 100_000)


def test_an_unknown_control_is_refused(evaluator, grown):
    with pytest.raises(ValueError, match="unknown control 'tall-host'; there are wide-host and from-scratch"):
        evaluator.unsteered("tall-host", 0, grown.final)


def test_whoever_plays_can_be_interrupted_between_epochs(evaluator, grown):
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > 2

    with pytest.raises(Interrupted):
        evaluator.play(GROWS, 0, stop)
    assert len(asked) == 3
    asked.clear()
    with pytest.raises(Interrupted):
        evaluator.unsteered(WIDE, 0, grown.final, stop)
    assert len(asked) == 3
    assert evaluator.play(GROWS, 3) == grown


def test_seeds_that_are_frozen_once_committed_are_trained_from_scratch_all_the_same():
    free, frozen = (Evaluator(config_of(growth__freeze_fossils=freeze)) for freeze in (False, True))
    final = FinalNetwork(0, (PlantedSeed("r0c0", "conv_light", LINEAR),))
    assert frozen.unsteered(SCRATCH, 1, final) == free.unsteered(SCRATCH, 1, final)


def test_a_rollback_ends_an_episode_and_is_counted(monkeypatch):
    evaluator = Evaluator(config_of())
    governor = "esper_ray.tolaria.governor.Governor.judge"
    from esper_ray.tolaria.governor import HealthVerdict as Judgement

    monkeypatch.setattr(governor, lambda *_: Judgement(True, False, "nerves", 1.0, 0.0))
    score = evaluator.play(STATIC, 0).score
    assert score.rollbacks == 1
    assert evaluator.unsteered(WIDE, 0, FinalNetwork(160, ())).score.rollbacks == 8


def test_compilation_is_left_out_so_that_operations_can_be_counted():
    assert Evaluator(config_of(training__compile_mode="default")).config.training.compile_mode == "off"


@pytest.fixture(scope="module")
def learned():
    """A learned policy with random weights."""
    config = PolicyConfig(feature_size=16, memory_size=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = PolicyNetwork(config)
    return Candidate("learned", config=config, weights=network.state_dict())


def test_greedy_policies_take_the_likeliest_action_and_others_draw(learned):
    greedy, drawing = (Evaluator(config_of(), greedy=flag) for flag in (True, False))
    limits = greedy.env.limits
    assert learned.policy(limits, "digits", "cpu", greedy=True).greedy
    policy = learned.policy(limits, "digits", "cpu", greedy=False)
    assert (policy.greedy, policy.epsilon) == (False, 0.0)
    for evaluator in (greedy, drawing):
        assert evaluator.play(learned, 2) == evaluator.play(learned, 2)


def test_labels_are_made_to_differ():
    entries = [Candidate(label, baseline="random") for label in ("a", "b", "a", "a", "a-2", "b")]
    assert [entry.label for entry in unique_labels(entries)] == ["a", "b", "a-3", "a-4", "a-2", "b-2"]


def test_names_of_known_policies_stay_theirs():
    """Otherwise the control `static` could be something else."""
    assert set(BASELINES) == {"heuristic", "random", "static", "schedule", "oracle"}
    script = Candidate("static", script=())
    run = Candidate("wide-host", config=PolicyConfig())
    found = unique_labels([script, run, STATIC, STATIC])
    assert [entry.label for entry in found] == ["static-2", "wide-host-2", "static", "static-3"]
