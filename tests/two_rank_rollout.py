"""Rollouts while the toy module trains, on one rank or on two."""

from pathlib import Path

import torch
from lightning import Trainer

from callbacks.checkpoint import AtomicCheckpointIO, checkpoint_callbacks
from callbacks.rollout import RolloutCallback
from callbacks.throughput import ThroughputCallback
from tests.toys import ToyEnv, ToyModule, toy_loader


class Still(ToyModule):
    """Learns nothing: the policy that is rolled out must be the same for every number of ranks."""

    def training_step(self, batch: torch.Tensor, batch_index: int) -> torch.Tensor:
        return 0.0 * super().training_step(batch, batch_index)


def measure(folder: Path, ranks: int) -> tuple[bool, dict]:
    """Whether this is rank zero, and what it measured."""
    trainer = Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        max_steps=2,
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[AtomicCheckpointIO()],
        callbacks=[
            ThroughputCallback(16, every_n_steps=2),
            RolloutCallback(ToyEnv(early=True, battle=True), episodes=23, every_n_steps=2, seed=0, chunk=5),
            *checkpoint_callbacks(folder, 2, "rollout/return_mean", 2),
        ],
    )
    trainer.fit(Still(), toy_loader())
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return trainer.is_global_zero, metrics | {"saved": sorted(path.name for path in folder.glob("*.ckpt"))}
