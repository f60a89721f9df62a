"""A tiny training by two ranks with Hugging Face's Trainer; each rank tells at which step it ended."""

import os
from pathlib import Path

import torch
from pacing import end_time_box
from transformers import (
    PretrainedConfig,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from backprop_trainers.huggingface import train

RANK = int(os.environ["RANK"])


class Tiny(PreTrainedModel):
    config_class = PretrainedConfig

    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Linear(4, 1)
        self.post_init()

    def forward(self, x, labels):
        return {"loss": torch.nn.functional.mse_loss(self.layer(x).squeeze(-1), labels)}


class Clocks(TrainerCallback):
    """The second rank's clock runs ahead of the first one's, which is to decide."""

    def on_step_end(self, args, state, control, **_):
        if state.global_step == (7, 5)[RANK]:
            end_time_box(0)


set_seed(3)
inputs = torch.randn(64, 4)
arguments = TrainingArguments(
    output_dir="out", max_steps=12, per_device_train_batch_size=4, logging_steps=1, report_to=[], save_strategy="no",
    disable_tqdm=True, use_cpu=True, ddp_backend="gloo", dataloader_pin_memory=False,
)  # fmt: skip
trainer = Trainer(
    model=Tiny(PretrainedConfig()),
    args=arguments,
    train_dataset=[{"x": x, "labels": x.sum()} for x in inputs],
    callbacks=[Clocks()],
)
train(trainer)
Path(f"ended-{os.environ['BACKPROP_ATTEMPT']}-{RANK}").write_text(
    f"{trainer.state.global_step} {trainer.model.layer.weight.tolist()}"
)
