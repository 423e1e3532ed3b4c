"""Growth in the Trainer of Lightning; the extra ``lightning``.

growing = grow(model, held_out, epochs=40)
module = MyModule(growing.model)          # configure_optimizers returns growing.optimizer, or that with a scheduler
Trainer(max_epochs=40, callbacks=[GrowthCallback(growing)]).fit(module, loader)
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from esper_ray.growing import GrowthSession
from esper_ray.integrations.trained_epochs import TrainedEpochs, first_rows
from esper_ray.kasmina.ranks.wrapping import leave_out_seeds
from esper_ray.leyline.errors import MissingExtraError, missing_extra

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise MissingExtraError(missing_extra("lightning", "lightning")) from error

LossOfBatch = Callable[[LightningModule, Any], Tensor]
"""Function from the module and a batch to the loss."""


class GrowthCallback(Callback):
    """Lightning callback of a growth session.

    The policy acts before each training epoch, the network is measured and judged after it, incubating seeds get their
    gradients after each backward pass. Checkpoints hold the session; a fresh process resumes from them.
    """

    def __init__(self, growing: GrowthSession, loss: LossOfBatch | None = None) -> None:
        """
        Args:
            growing: session of the model that the module trains.
            loss: loss for incubation; default: what ``training_step`` returns on a part of the batch.
        """
        self._epochs, self._loss = TrainedEpochs(growing), loss
        self._batch: tuple[Any, int] | None = None

    @property
    def growing(self) -> GrowthSession:
        """The session."""
        return self._epochs.growing

    # Events of the trainer

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            if trainer.precision == "16-mixed":
                raise ValueError("gradients of incubating seeds cannot be scaled: precision 16-mixed, use bf16-mixed")
            self._epochs.check_model(pl_module)
            self._epochs.check_length(trainer.max_epochs)
            leave_out_seeds(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epochs.check_optimizer(list(trainer.optimizers))
        self.growing.model.exchange.start()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epochs.end()  # a checkpoint of the validation loop was written before the end of its epoch
        self._epochs.begin()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batch = batch, batch_idx

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._batch is not None
        batch, index = first_rows(self._batch[0], self.growing.options.incubation_share), self._batch[1]

        def loss() -> Tensor:
            with trainer.precision_plugin.train_step_context(), _without_logging(pl_module):
                result = self._loss(pl_module, batch) if self._loss else pl_module.training_step(batch, index)
            value = result["loss"] if isinstance(result, dict) else result
            share: Tensor = value / trainer.accumulate_grad_batches
            return share

        self.growing.model.incubate(loss)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epochs.end()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batch = None
        self._epochs.finish()

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        return {"growth": torch.frombuffer(bytearray(self.growing.save_state()), dtype=torch.uint8)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.growing.load_state(state_dict["growth"].cpu().numpy().tobytes())


@contextmanager
def _without_logging(module: LightningModule) -> Iterator[None]:
    """Context in which ``module.log`` has no effect, since the pass is not one of training."""
    module.log = module.log_dict = lambda *_args, **_options: None
    try:
        yield
    finally:
        del module.log, module.log_dict
