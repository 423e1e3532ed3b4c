"""The round in play, from the state, equals what the episodes say."""

from collections import Counter
from statistics import fmean

import pytest
from run_builders import placed

from esper_actors.session import train
from esper_ray.karn.console.round_in_play import RoundInPlay
from esper_ray.nissa.runs.observer import RunObserver

pytestmark = pytest.mark.integration


class Comparison(RunObserver):
    """Observer that compares the round in play with its episodes, after each of them."""

    def __init__(self, envs):
        self._round = RoundInPlay(envs, 0)
        self._episodes, self.compared = [], 0

    def samples_received(self, records):
        self._round.add_samples(records)

    def episode_finished(self, episode):
        self._episodes.append(episode)
        self._round.add_episode(episode)
        shown, episodes = self._round.so_far(), self._episodes
        operations = sum((Counter(one.operations) for one in episodes), Counter())
        assert shown.episode_return == pytest.approx(fmean(one.total_reward for one in episodes), abs=1e-6)
        assert shown.val_accuracy_pp == pytest.approx(fmean(one.val_accuracy_pp for one in episodes))
        assert shown.growth_ratio == pytest.approx(fmean(one.growth_ratio for one in episodes))
        assert shown.fossilized == fmean(one.fossilized for one in episodes)
        assert Counter({name: count for name, count in shown.operations.items() if count}) == operations
        assert self._round.steps >= sum(len(one.trajectory) for one in episodes)
        self.compared += 1

    def round_finished(self, row, timing):
        assert self._round.steps == sum(len(one.trajectory) for one in self._episodes)
        self._episodes = []
        self._round.next_round(row["round"] + 1)


def test_the_round_in_play_equals_its_episodes(tiny_config, tmp_path):
    config = placed(tiny_config, "local")
    observer = Comparison(config.system.envs)
    train(config, run=tmp_path / "run", observers=[observer])
    assert observer.compared == config.system.envs * config.ppo.rounds
