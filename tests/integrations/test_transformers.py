"""Growth in the Trainer of transformers, and with Accelerate."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from trainer_builders import EPOCHS, digest, examples, session

from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.optimizer import GrowingOptimizer
from esper_ray.leyline.stages import Stage

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the libraries
transformers = pytest.importorskip("transformers")


class Rows(torch.utils.data.Dataset):
    """Examples as mappings."""

    def __len__(self):
        return 96

    def __getitem__(self, index):
        x, labels = examples()
        return {"x": x[index], "labels": labels[index]}


class Stop(Exception):
    """An interruption."""


def trainer(folder, growing, stop_after=None, model=None, **options):
    from esper_ray.integrations.transformers import GrowthCallback

    class Stopping(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if stop_after is not None and state.global_step == stop_after:
                raise Stop

    defaults = {"num_train_epochs": EPOCHS, "remove_unused_columns": False, "label_names": ["labels"]}
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_safetensors": True}
    arguments = {"output_dir": str(folder), "per_device_train_batch_size": 32, **defaults, **options}
    known = transformers.TrainingArguments.__dataclass_fields__
    arguments |= {name: value for name, value in quiet.items() if name in known}
    return transformers.Trainer(
        model or growing.model,
        transformers.TrainingArguments(**arguments),
        train_dataset=Rows(),
        optimizers=(growing.optimizer, None),
        callbacks=[GrowthCallback(growing), Stopping()],
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    growing = session()
    trainer(tmp_path_factory.mktemp("whole"), growing, save_strategy="no").train()
    return growing


def test_a_seed_lives_its_whole_life_and_is_committed(finished):
    assert finished.epoch == len(finished.history) == EPOCHS
    assert finished.model.states["r0c0"].stage is Stage.FOSSILIZED
    assert finished.measured.accuracy_pp > 65.0  # the host alone: 56


@pytest.mark.parametrize(
    ("options", "step"),
    [
        pytest.param({"save_strategy": "epoch"}, 9, id="after an epoch"),
        pytest.param({"save_strategy": "steps", "save_steps": 3}, 9, id="after its last step"),
        pytest.param({"save_strategy": "steps", "save_steps": 8}, 8, id="within an epoch"),
    ],
)
def test_a_checkpoint_of_an_interrupted_training_resumes_to_the_same_result(finished, tmp_path, options, step):
    growing = session()
    with pytest.raises(Stop):
        trainer(tmp_path, growing, stop_after=10, **options).train()
    assert growing.model.states["r0c0"].stage is Stage.HOLDING
    fresh = session()
    trainer(tmp_path, fresh, **options).train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert digest(fresh.model) == digest(finished.model)
    assert [str(step) for step in fresh.history] == [str(step) for step in finished.history]


def test_arguments_that_do_not_fit_are_refused(tmp_path):
    growing = session()
    with pytest.raises(ValueError, match=r"remove_unused_columns=False, label_names=\['labels'\]"):
        trainer(tmp_path, growing, remove_unused_columns=True)
    with pytest.raises(ValueError, match="the trainer trains 3 epochs and the growth 14"):
        trainer(tmp_path, growing, num_train_epochs=3).train()
    with pytest.raises(ValueError, match=r"Linear does not hold growing\.model"):
        trainer(tmp_path, growing, model=session().model.host)
    assert growing.history == []


def test_a_model_with_tied_weights_is_saved_and_loaded(tmp_path):
    from safetensors.torch import load_file, save_file

    from esper_ray.growing import grow
    from esper_ray.integrations.transformers import GrowthCallback

    def decoder():
        torch.manual_seed(0)
        config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=20, n_positions=8)
        tokens = torch.arange(24).reshape(4, 6) % 20
        held_out = {"input_ids": tokens, "labels": tokens}
        places = {"r0c0": "transformer.h.0.mlp"}
        return grow(transformers.GPT2LMHeadModel(config), held_out, slots=places, epochs=2, report=lambda _line: None)

    growing = decoder()
    GrowthCallback(growing)
    growing.model.germinate("r0c0", "lora")
    save_file(growing.model.state_dict(), tmp_path / "model.safetensors")
    fresh = decoder()
    fresh.model.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)
    assert digest(fresh.model) == digest(growing.model)


def accelerated(steps, folder=None, saved_after=None):
    """A model after ``steps`` with Accelerate; a seed is born after the first."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    host = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    model = MorphogeneticModel.wrap(host, {"r0c0": "0"}, torch.zeros(2, 4))
    optimizer = GrowingOptimizer(model, torch.optim.AdamW, lr=0.01)
    loader = DataLoader(TensorDataset(*examples()), batch_size=24)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    first = 0
    if folder is not None and saved_after is None:
        accelerator.load_state(folder)
        first = 2
    for index, (x, y) in enumerate(loader):
        if not first <= index < steps:
            continue
        if index == 1:
            model.germinate("r0c0", "mlp_small")
            model.advance("r0c0")
        optimizer.zero_grad()
        accelerator.backward(cross_entropy(model(x), y))
        model.incubate(lambda x=x, y=y: cross_entropy(model(x), y))
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if index + 1 == saved_after:
            accelerator.save_state(folder)
    return accelerator.unwrap_model(model)


def test_a_state_of_accelerate_resumes_to_the_same_result(tmp_path):
    whole = accelerated(4)
    accelerated(2, tmp_path / "state", saved_after=2)
    resumed = accelerated(4, tmp_path / "state")
    assert resumed.states["r0c0"].stage is Stage.TRAINING
    assert digest(resumed) == digest(whole)
