"""Mixed precision trains: networks in bfloat16, weights, TD targets and losses in float32."""

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from dof_lightning.algorithms.parts.critics import TeamCritic
from tests.fixtures.policy_models import small_batch, small_dof_policy
from tests.fixtures.trainers import quiet_trainer


def test_a_few_steps_in_bfloat16(tmp_path: Path, monkeypatch: Any) -> None:
    algorithm = small_dof_policy()
    before = [parameter.detach().clone() for parameter in algorithm.parameters()]
    targets: list[torch.Tensor] = []
    hidden: set[torch.dtype] = set()
    losses: list[torch.Tensor] = []
    target, training_step = TeamCritic._target, algorithm.training_step

    def spy_on_target(self: TeamCritic, *arguments: Any) -> torch.Tensor:
        targets.append(target(self, *arguments))
        return targets[-1]

    def spy_on_loss(*arguments: Any) -> torch.Tensor:
        losses.append(training_step(*arguments))
        return losses[-1]

    monkeypatch.setattr(TeamCritic, "_target", spy_on_target)
    monkeypatch.setattr(algorithm, "training_step", spy_on_loss)
    algorithm.denoiser.register_forward_hook(lambda module, given, result: hidden.add(result.dtype))
    trainer = quiet_trainer(
        precision="bf16-mixed",
        max_steps=3,
        folder=tmp_path,
    )
    batches = [small_batch(algorithm.spec, seed=seed) for seed in range(3)]
    trainer.fit(algorithm, train_dataloaders=DataLoader(batches, batch_size=None))
    assert hidden == {torch.bfloat16}, "the networks ran in full precision: nothing was tested"
    assert len(losses) == 3
    assert all(loss.isfinite() for loss in losses)
    assert {values.dtype for values in targets} == {torch.float32}
    assert {parameter.dtype for parameter in algorithm.parameters()} == {torch.float32}
    assert any(not torch.equal(old, new) for old, new in zip(before, algorithm.parameters(), strict=True))
