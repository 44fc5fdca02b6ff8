"""On each of two ranks: trains every algorithm for a few steps and compares the ranks' weights."""

import sys

import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from dof_lightning.algorithms.base import Algorithm
from tests.contracts.synthetic import ALGORITHMS, build_algorithm, random_batch


def weights(algorithm: Algorithm) -> torch.Tensor:
    return torch.cat([value.detach().double().flatten() for value in algorithm.state_dict().values()])


def train_every_algorithm() -> None:
    for name in ALGORITHMS:
        algorithm = build_algorithm(f"algorithm={name}")
        before = weights(algorithm)
        trainer = Trainer(
            accelerator="cpu",
            devices=2,
            strategy="ddp",
            max_steps=3,
            max_epochs=-1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        batches = [random_batch(algorithm.spec, algorithm.window, seed=10 * i + trainer.global_rank) for i in range(3)]
        trainer.fit(algorithm, train_dataloaders=DataLoader(batches, batch_size=None))
        mine = weights(algorithm)
        both = [torch.empty_like(mine) for _ in range(2)]
        torch.distributed.all_gather(both, mine)
        assert torch.equal(*both), f"{name}: the ranks' weights differ"
        assert not torch.equal(mine, before), f"{name}: nothing was learned"
        if trainer.global_rank == 0:
            sys.stdout.write(f"trained {name}\n")
