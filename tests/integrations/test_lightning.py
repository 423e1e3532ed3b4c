"""Growth in the Trainer of Lightning."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from trainer_builders import EPOCHS, digest, examples, session

from esper_ray.leyline.stages import Stage

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Lightning's own
L = pytest.importorskip("lightning.pytorch")


class Stop(Exception):
    """An interruption."""


class Module(L.LightningModule):
    """A user's module around a growing model."""

    def __init__(self, growing, interrupted_at=None):
        super().__init__()
        self.model, self.optimizer, self.interrupted_at = growing.model, growing.optimizer, interrupted_at

    def training_step(self, batch, index):
        if self.current_epoch == self.interrupted_at:
            raise Stop
        x, y = batch
        loss = cross_entropy(self.model(x), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return [self.optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, EPOCHS)]


def trainer(folder, growing, **options):
    from esper_ray.integrations.lightning import GrowthCallback

    keeping = L.callbacks.ModelCheckpoint(folder, every_n_epochs=1, save_top_k=-1, filename="{epoch}")
    defaults = {"max_epochs": EPOCHS, "callbacks": [GrowthCallback(growing), keeping]}
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(default_root_dir=folder, accelerator="cpu", devices=1, **quiet, **(defaults | options))


def loader():
    return DataLoader(TensorDataset(*examples()), batch_size=32)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    growing = session()
    trainer(tmp_path_factory.mktemp("whole"), growing, gradient_clip_val=1.0).fit(Module(growing), loader())
    return growing


def test_a_seed_lives_its_whole_life_and_is_committed(finished):
    assert finished.epoch == len(finished.history) == EPOCHS
    assert finished.model.states["r0c0"].stage is Stage.FOSSILIZED
    assert finished.measured.accuracy_pp >= 70.0  # the linear host alone: 50
    assert finished.plain()(examples()[0]).shape == (96, 2)


def test_a_checkpoint_of_an_interrupted_training_resumes_to_the_same_result(finished, tmp_path):
    growing = session()
    with pytest.raises(Stop):
        trainer(tmp_path, growing, gradient_clip_val=1.0).fit(Module(growing, interrupted_at=3), loader())
    assert growing.model.states["r0c0"].stage is Stage.HOLDING
    fresh = session()
    path = tmp_path / "epoch=2.ckpt"
    trainer(tmp_path / "resumed", fresh, gradient_clip_val=1.0).fit(Module(fresh), loader(), ckpt_path=path)
    assert digest(fresh.model) == digest(finished.model)
    assert [str(step) for step in fresh.history] == [str(step) for step in finished.history]


def test_the_weights_of_a_checkpoint_load_into_a_fresh_module(finished, tmp_path):
    path = tmp_path / "whole.ckpt"
    torch.save({"state_dict": Module(finished).state_dict()}, path)
    fresh = session()
    Module(fresh).load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    assert digest(fresh.model) == digest(finished.model)


def test_a_trainer_that_does_not_fit_is_refused_before_training(tmp_path):
    growing = session()
    with pytest.raises(ValueError, match="the trainer trains 3 epochs and the growth 14"):
        trainer(tmp_path, growing, max_epochs=3).fit(Module(growing), loader())
    other = Module(session())
    with pytest.raises(ValueError, match=r"Module does not hold growing\.model"):
        trainer(tmp_path, growing).fit(other, loader())
    host = Module(growing)
    host.optimizer = torch.optim.SGD(growing.model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"the trainer has the optimizers SGD; it must step growing\.optimizer"):
        trainer(tmp_path, growing).fit(host, loader())
    assert growing.history == []
