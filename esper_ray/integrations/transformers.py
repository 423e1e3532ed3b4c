"""Growth in the Trainer of transformers; the extra ``transformers``.

growing = grow(model, held_out, epochs=3)
arguments = TrainingArguments(num_train_epochs=3, remove_unused_columns=False, label_names=["labels"])
Trainer(growing.model, arguments, train_dataset=data, optimizers=(growing.optimizer, None),
        callbacks=[GrowthCallback(growing)]).train()
"""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from esper_ray.growing import GrowthSession
from esper_ray.integrations.trained_epochs import TrainedEpochs, first_rows
from esper_ray.leyline.errors import MissingExtraError, missing_extra
from esper_ray.leyline.files.durable import write_file

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise MissingExtraError(missing_extra("transformers", "transformers")) from error

FILE = "growth.esper"
"""File of the session in the folder of a checkpoint."""
LossOfOutput = Callable[[Any, Mapping[str, Any]], Tensor]
"""Function from the model's output and its named inputs to the loss."""


class GrowthCallback(TrainerCallback):
    """Callback of a growth session for the Trainer of transformers.

    The policy acts before each epoch, the network is measured and judged after it, incubating seeds get their gradients
    before each optimizer step, from the last batch. Checkpoints hold the session; a fresh process resumes from them.
    """

    def __init__(self, growing: GrowthSession, loss: LossOfOutput | None = None) -> None:
        """
        Args:
            growing: session of the model that the trainer trains.
            loss: loss for incubation; default: the loss in the model's output.
        """
        self._epochs, self._loss = TrainedEpochs(growing), loss
        self._batch: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        model = growing.model
        vars(model)["accepts_loss_kwargs"] = _accepts_loss_arguments(model.host)  # read by the Trainer
        model.register_forward_pre_hook(self._note, with_kwargs=True)
        register: Any = model.register_state_dict_post_hook  # torch gives it no types
        register(_untie)

    @property
    def growing(self) -> GrowthSession:
        """The session."""
        return self._epochs.growing

    # Events of the trainer

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._epochs.check_model(kwargs["model"])
        if args.remove_unused_columns:
            raise ValueError(
                "the Trainer cannot read the columns of a growing model from its signature; pass "
                "TrainingArguments(remove_unused_columns=False, label_names=['labels'])"
            )
        if args.fp16:
            raise ValueError("gradients of incubating seeds cannot be scaled: fp16=True, use bf16=True")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._epochs.check_optimizer([kwargs["optimizer"]])
        self._epochs.check_length(state.num_train_epochs)
        self.growing.model.exchange.start()
        if state.global_step:
            path = _folder(args, state) / FILE
            if not path.is_file():
                raise FileNotFoundError(f"the checkpoint of step {state.global_step} has no growth: {path}")
            self.growing.load_state(path.read_bytes())

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.growing.epoch_is_open and not float(state.epoch or 0.0).is_integer():
            return  # resumed within an epoch
        self._epochs.end()
        self._epochs.begin()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.growing.model.incubate(self._loss_of_batch)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._epochs.end()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._batch = None
        self._epochs.finish()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            write_file(_folder(args, state) / FILE, self.growing.save_state())

    # The pass of incubating seeds

    def _note(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep the arguments of a training pass."""
        if model.training and torch.is_grad_enabled():
            self._batch = args, kwargs

    def _loss_of_batch(self) -> Tensor:
        assert self._batch is not None
        args, kwargs = first_rows(self._batch, self.growing.options.incubation_share)
        kwargs = {name: value for name, value in kwargs.items() if name != "num_items_in_batch"}
        output = self.growing.model(*args, **kwargs)
        if self._loss is not None:
            return self._loss(output, kwargs)
        loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if not isinstance(loss, Tensor):
            raise ValueError(
                f"the output of {type(self.growing.model.host).__name__} is a {type(output).__name__} without a loss; "
                "pass GrowthCallback(growing, loss=...), a function of output and inputs"
            )
        return loss


def _folder(args: Any, state: Any) -> Path:
    """Folder of the checkpoint of this step."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _accepts_loss_arguments(host: nn.Module) -> bool:
    """Whether the Trainer would pass arguments of the loss to ``host``.

    The rule is the Trainer's own.
    """
    if hasattr(host, "accepts_loss_kwargs"):
        return bool(host.accepts_loss_kwargs)
    kinds = [parameter.kind for parameter in inspect.signature(host.forward).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds


def _untie(_module: nn.Module, state: dict[str, Any], _prefix: str, _metadata: Any) -> None:
    """Give tied tensors of a state memory of their own.

    Files of safetensors cannot hold tensors that share memory.
    """
    places = set()
    for name, value in state.items():
        if isinstance(value, Tensor) and value.numel():
            place = value.device, value.data_ptr()
            state[name] = value.clone() if place in places else value
            places.add(place)
