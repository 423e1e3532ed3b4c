"""``esper sweep`` without Ray: refusals, flags and progress."""

import io
import math

import pytest
from nissa_builders import complete
from rich.console import Console

from esper_ray.cli.commands.training.sweep import parse_grid, parse_seeds
from esper_ray.karn.console.sweep_progress import LiveSweepProgress, PlainSweepProgress, TrialStates
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.config.sweep import expand, sweep_config
from esper_ray.leyline.errors import UsageError
from esper_ray.nissa.catalogue.kinds import EVENT_SCHEMA
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.sweep_directory import SweepDirectory

pytestmark = pytest.mark.integration

FILE = "reward_modes: [basic]\nseeds: 1\n"

REFUSED = {
    "key": (["--grid", "ppo.learning_rate=1e-3"], ["unknown key 'ppo.learning_rate'"]),
    "misspelt key": (["--grid", "ppo.epocs=1,2"], ["unknown key 'ppo.epocs'; did you mean 'ppo.epochs'?"]),
    "empty grid": (["--grid", "ppo.lr="], ["--grid ppo.lr=: 'ppo.lr' has no values to try"]),
    "no pair": (["--grid", "ppo.lr"], ["--grid takes KEY=VALUE,VALUE,..., got 'ppo.lr'"]),
    "key twice": (["--grid", "ppo.lr=1", "--grid", "ppo.lr=2"], ["--grid ppo.lr is given twice"]),
    "value twice": (["--grid", "ppo.lr=1,1"], ["value of 'ppo.lr' 1 is listed twice"]),
    "value": (["--grid", "ppo.clip=0.1,7"], ["trial ", "-clip=7-", "ppo.clip", "less than 1", "got 7"]),
    "mode": (["--reward-modes", "basik"], ["unknown reward mode 'basik'; did you mean 'basic'?"]),
    "modes": (["--reward-modes", "basic", "basic"], ["'basic' is listed twice"]),
    "seeds": (["--seeds", "many"], ["--seeds takes a number", "got 'many'"]),
    "backwards": (["--seeds", "5-3"], ["--seeds 5-3", "must not be below"]),
    "no seeds": (["--seeds", "0"], ["--seeds 0", "one seed at least"]),
    "scheduler": (["--scheduler", "hyperband"], ["scheduler", "known: none, asha, pbt, pb2"]),
    "population": (["--scheduler", "pbt"], ["'pbt' changes settings", "grid needs a key"]),
    "sweep": (["--sweep", "reward_mode"], ["unknown sweep 'reward_mode'; did you mean 'reward_modes'?"]),
    "file": (["--sweep", "/nowhere/x.yaml"], ["cannot read configuration /nowhere/x.yaml"]),
    "preset": (["--preset", "digitz"], ["unknown preset 'digitz'"]),
    "family": (
        ["--reward-modes", "all", "--set", "reward.family=loss"],
        ["trial 01-simplified-s42 and 2 more", "has the mode 'shaped' only", "got mode 'settlement'"],
    ),
    "data": (["--grid", "task.validation_size=400,5000"], ["trial ", "validation_size=5000", "of 1797"]),
    "batch": (["--grid", "training.batch_size=16,5000"], ["batch_size=5000", "exceeds the", "training examples"]),
    "device": (["--devices", "tpu:0"], ["system.devices", "'tpu:0'"]),
    "resources": (
        ["--concurrent", "500", "--seeds", "500", "--envs", "1"],
        ["500 trials at a time need", "= 500 CPU, the cluster has"],
    ),
    "varied and set": (
        ["--grid", "ppo.lr=0.1,0.2", "--set", "ppo.lr=0.3"],
        ["ppo.lr is varied by --grid ppo.lr and has the one value 0.3"],
    ),
    "seed digits": (["--seeds", "9" * 5000], ["--seeds takes a number"]),
    "seed range": (["--seeds", "0-4000000000"], ["4,000,000,001 seeds exceed 10,000"]),
    "grid alias": (["--grid", "ppo.lr=&a 1,*a"], ["anchors and aliases"]),
    "missing device": (["--devices", "cuda:999", "--seeds", "1"], ["'cuda:999' does not exist"]),
    "resume": (["--resume", "/nowhere"], ["/nowhere is not a sweep directory", "sweep.json"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_input_is_refused_before_the_start(case, esper, tmp_path):
    flags, expected = REFUSED[case]
    folder = [] if case == "resume" else ["--out", tmp_path / "sweep"]
    answer = esper("sweep", *folder, *flags)
    assert answer.code == 2
    for text in expected:
        assert text in answer.err
    assert all(line.startswith("esper: error: ") for line in answer.err.splitlines())
    assert not (tmp_path / "sweep").exists()


def base(**more):
    return build(read_preset("digits"), {"ppo.rounds": 3} | more)


def created_sweep(path, config=None, **tree):
    sweep = sweep_config({"name": "mine", "preset": "digits", "reward_modes": ["basic", "sparse"], "seeds": 1} | tree)
    config = config or base()
    return SweepDirectory.create(path, sweep, config, {t.name: 160 for t in expand(sweep, config)}, ["test"])


class TestResuming:
    """Resumption of the same sweep, and refusal of another one."""

    def test_a_run_directory_is_refused(self, esper, tmp_path):
        run = RunDirectory.create(tmp_path, base(), ["test"])
        answer = esper("sweep", "--resume", run.path)
        assert answer.code == 2
        assert f"it is a run: esper train ppo --resume {run.path}" in answer.err

    @pytest.mark.parametrize(
        ("flags", "expected"),
        [
            (["--reward-modes", "basic"], "reward_modes: ['basic', 'sparse'] -> ['basic']"),
            (["--seeds", "2"], "seeds: 1 -> 2"),
            (["--grid", "ppo.lr=1e-4,1e-3"], "grid: {} -> {'ppo.lr': [0.0001, 0.001]}"),
            (["--rounds", "9"], "ppo.rounds: 3 -> 9"),
            (["--sweep", "reward_modes"], "name: 'mine' -> 'reward_modes'"),
            (["--preset", "digits_long"], "ppo.rounds: 3 -> "),
        ],
    )
    def test_another_sweep_is_refused_with_its_differences(self, esper, tmp_path, flags, expected):
        sweep = created_sweep(tmp_path / "sweep")
        answer = esper("sweep", "--resume", sweep.path, *flags)
        assert answer.code == 2
        assert "is another sweep than the requested one" in answer.err
        assert expected in answer.err

    def test_trials_of_another_sweep_are_refused(self, esper, tmp_path):
        sweep = created_sweep(tmp_path / "sweep")
        RunDirectory.create(sweep.trials_path, base(gamma=0.5), ["test"], next(iter(sweep.trials)))
        answer = esper("sweep", "--resume", sweep.path)
        assert answer.code == 2
        assert "belongs to another sweep" in answer.err
        assert "gamma: 0.5 -> 0.995" in answer.err

    def test_a_folder_that_is_not_empty_is_refused(self, esper, tmp_path):
        created_sweep(tmp_path / "sweep")
        answer = esper("sweep", "--out", tmp_path / "sweep", "--seeds", "1")
        assert answer.code == 2
        assert f"--resume {tmp_path / 'sweep'} resumes an existing sweep" in answer.err

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("{", "is not JSON"),
            ("[]", "is not an object: it is []"),
            ('{"schema": 7}', "has schema 7, this version reads 1"),
            ('{"schema": 1}', "cannot be used"),
            ('{"schema": true}', "has schema True, this version reads 1"),
            ('{"schema": 1, "sweep": {}, "base": {}}', "host_parameters: Field required"),
            (
                '{"schema": 1, "sweep": {}, "base": {}, "host_parameters": {"a": "160"}}',
                "host_parameters.a: Input should be a valid integer, got '160'",
            ),
            (
                '{"schema": 1, "sweep": {"sedes": 1}, "base": {}, "host_parameters": {}}',
                "unknown key of a sweep 'sedes'",
            ),
        ],
    )
    def test_a_damaged_sweep_file_is_refused(self, esper, tmp_path, text, expected):
        (tmp_path / "sweep.json").write_text(text)
        answer = esper("sweep", "--resume", tmp_path)
        assert answer.code == 2
        assert expected in answer.err


def test_grids_are_parsed_from_flags():
    assert parse_grid(["ppo.lr=1e-4,3E-4,.5", "task.augment=true,false", "growth.slots=[r0c0],[r0c0,r0c1]"]) == {
        "ppo.lr": [1e-4, 3e-4, 0.5],
        "task.augment": [True, False],
        "growth.slots": [["r0c0"], ["r0c0", "r0c1"]],
    }
    with pytest.raises(UsageError, match="is not a list of values"):
        parse_grid(["ppo.lr=[1"])


def test_seeds_are_parsed_as_a_number_a_range_or_a_list():
    assert [parse_seeds(text) for text in ("3", "100-102", "1,5,9", "7,")] == [3, [100, 101, 102], [1, 5, 9], [7]]


ROW = {
    "round": 0,
    "env_steps": 40,
    "committed_accuracy_ratio": 0.5,
    "val_accuracy_ratio": 0.6,
    "growth_ratio": 2.0,
    "fossilised_mean": 1.5,
    "return_mean": 3.25,
    "rollbacks": 0,
}


def played(sweep, name, count=1):
    """Run directory of a trial with some rounds in its log and its tables."""
    run = RunDirectory.create(sweep.trials_path, base(), ["test"], name)
    for index in range(count):
        add_round(run, index)
    return run


def add_round(run, index, **more):
    row = ROW | {"round": index, "env_steps": 40 * (index + 1), "growth_ratio": 2.0 + index} | more
    run.log([complete({"kind": "round", **row})])
    run.add_round(row, {"round": index})


class TestTrialStates:
    """Results of trials from their states equal those from their tables of rounds."""

    NAME = "0-basic-s42"

    @pytest.fixture
    def sweep(self, tmp_path):
        return created_sweep(tmp_path / "sweep", window=2)

    def test_a_state_gives_the_result_of_the_table_as_the_log_grows(self, sweep):
        states = TrialStates(sweep)
        assert states.results() == {result.trial: result for result in sweep.results()}
        run = played(sweep, self.NAME)
        for index in range(1, 4):
            result = states.result(self.NAME)
            assert result == sweep.result(self.NAME)
            assert result.round_index == index
            add_round(run, index)
            run.event_log.compact(always=index == 2)

    def test_a_trial_that_continues_another_one_has_the_rounds_of_its_new_run(self, sweep):
        states = TrialStates(sweep)
        played(sweep, self.NAME)
        assert states.result(self.NAME).round_index == 1
        played(sweep, f"{self.NAME}.g01", 3)
        result = states.result(self.NAME)
        assert (result.round_index, result.generation, result) == (3, 1, sweep.result(self.NAME))

    def test_a_number_that_is_not_finite_is_nan_in_both(self, sweep):
        add_round(played(sweep, self.NAME), 1, return_mean=math.nan)
        for result in (TrialStates(sweep).result(self.NAME), sweep.result(self.NAME)):
            assert math.isnan(result.means["return_mean"])
            assert result.score_pp == pytest.approx(48.8)

    def test_a_log_of_another_version_leaves_the_table_of_rounds_and_a_warning(self, sweep, caplog):
        log = played(sweep, self.NAME).event_log.tail
        log.write_text(log.read_text().replace(f'"schema": {EVENT_SCHEMA}', '"schema": 1'))
        assert TrialStates(sweep).result(self.NAME) == sweep.result(self.NAME)
        assert f"{self.NAME}: its lines show the table of rounds" in caplog.text
        assert f"version 1, this program reads {EVENT_SCHEMA}" in caplog.text


class TestProgress:
    """One line for each trial: objective 50 points minus 160 parameters at 5 points for every 1,000 of them."""

    @pytest.fixture
    def sweep(self, tmp_path):
        sweep = created_sweep(tmp_path / "sweep")
        played(sweep, "0-basic-s42")
        return sweep

    def text(self, make, sweep, height=30):
        console = Console(file=io.StringIO(), width=120, height=height, force_terminal=make is LiveSweepProgress)
        progress = make(sweep, console)
        progress.changed("0-basic-s42", "running")
        if make is LiveSweepProgress:
            console.print(progress._render())
        return console.file.getvalue()

    def test_without_a_terminal_a_line_is_printed(self, sweep):
        text = self.text(PlainSweepProgress, sweep)
        assert "0-basic-s42  running  round 1/3  score +49.2  committed accuracy 50.0%  1 running, 1 waiting" in text

    def test_on_a_terminal_a_table_is_printed(self, sweep):
        text = self.text(LiveSweepProgress, sweep)
        for part in ("0-basic-s42", "1/3", "+49.2", "50.0%", "2.00x", "1.5", "+3.25", "1-sparse-s42", "0/3"):
            assert part in text
        assert "1 running, 1 waiting" in text

    def test_a_table_without_room_for_all_trials_shows_the_running_ones(self, tmp_path):
        sweep = created_sweep(tmp_path / "large", seeds=10)
        played(sweep, "00-basic-s42")
        console = Console(file=io.StringIO(), width=120, height=11, force_terminal=True)
        progress = LiveSweepProgress(sweep, console)
        progress.changed("19-sparse-s51", "running")
        console.print(progress._render())
        assert "19-sparse-s51" in console.file.getvalue()
        assert "and 15 more" in console.file.getvalue()
