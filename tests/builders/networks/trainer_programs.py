"""Program of one of two processes: a whole life in the Trainer of Lightning or transformers, started by torchrun."""

import sys
import warnings

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset
from trainer_builders import EPOCHS, digest, examples, session


class Rows(Dataset):
    """Examples as mappings."""

    def __len__(self) -> int:
        return 96

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        x, labels = examples()
        return {"x": x[index], "labels": labels[index]}


def lightning(growing, folder):
    import lightning.pytorch as L

    from esper_ray.integrations.lightning import GrowthCallback

    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.optimizer = growing.model, growing.optimizer

        def training_step(self, batch, index):
            return cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            return self.optimizer

    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=EPOCHS,
        callbacks=[GrowthCallback(growing)],
        gradient_clip_val=1.0,
        default_root_dir=folder,
        **quiet,
    )
    trainer.fit(Module(), DataLoader(TensorDataset(*examples()), batch_size=16))


def transformers(growing, folder):
    from transformers import Trainer, TrainingArguments

    from esper_ray.integrations.transformers import GrowthCallback

    arguments = TrainingArguments(
        folder,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=16,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="no",
    )
    callback = GrowthCallback(growing)
    optimizers = (growing.optimizer, None)
    Trainer(growing.model, arguments, train_dataset=Rows(), optimizers=optimizers, callbacks=[callback]).train()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    growing = session()
    {"lightning": lightning, "transformers": transformers}[sys.argv[1]](growing, sys.argv[2])
    operations = [step.operation for step in growing.history]
    sys.stdout.write(f"result {digest(growing.model)} {growing.measured.examples} {','.join(operations)}\n")
