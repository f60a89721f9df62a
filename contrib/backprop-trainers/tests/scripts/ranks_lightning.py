"""A tiny training by two ranks that Lightning starts itself; each rank tells at which step it ended."""

import os
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from pacing import end_time_box
from torch.utils.data import DataLoader, TensorDataset

from backprop_trainers.lightning import fit

warnings.simplefilter("ignore")


class Tiny(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, _):
        x, y = batch
        return torch.nn.functional.mse_loss(self.layer(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-2)


class Clocks(Callback):
    """The second rank's clock runs ahead of the first one's, which is to decide."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == (7, 5)[trainer.global_rank]:
            end_time_box(0)


seed_everything(3)
x = torch.randn(64, 4)
data = TensorDataset(x, x.sum(1, keepdim=True))
trainer = Trainer(
    max_epochs=3, accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, callbacks=[Clocks()],
)  # fmt: skip
model = Tiny()
fit(trainer, model, DataLoader(data, batch_size=8))
Path(f"ended-{os.environ['BACKPROP_ATTEMPT']}-{trainer.global_rank}").write_text(
    f"{trainer.global_step} {model.layer.weight.tolist()}"
)
