"""Mixed precision trains: networks in bfloat16, weights, TD targets and losses in float32."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dof_lightning.algorithms.parts.critics import Situation, TeamCritic
from dof_lightning.algorithms.parts.extraction import BatchWeighted
from tests.fixtures.policy_models import generator, small_batch, small_dof_policy
from tests.fixtures.seam_models import make
from tests.fixtures.signal_world import signal_spec
from tests.fixtures.synthetic import build_algorithm, random_batch
from tests.fixtures.trainers import quiet_trainer
from tests.fixtures.trajectory_models import small_dof_trajectory, small_windows


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


def test_values_that_count_by_a_small_difference_stay_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 two values of 7 differ by 0 or 0.03, as much as whole advantages."""
    maicq, expectile = build_algorithm("algorithm=maicq"), make("expectile", "weighted").float()
    weighted: list[Tensor] = []

    def spy(self: BatchWeighted, advantage: Tensor, counts: Tensor) -> Tensor:
        weighted.append(advantage)
        return counts.to(advantage)

    monkeypatch.setattr(BatchWeighted, "weights", spy)
    rows = random_batch(maicq.spec, maicq.window, size=16)
    batch = small_batch(expectile.spec, rows=expectile.window.length)
    now = Situation.of(batch, batch.history, expectile.normalizer)
    data = batch.actions[:, :, batch.history]
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            maicq.losses(rows, generator())
            found.append(expectile.value_learning.advantage(expectile.critic, now, data, lambda: data[None]))
    torch.testing.assert_close(found[1], found[0])
    assert {values.dtype for values in weighted} == {torch.float32}


def test_inverse_dynamics_of_discrete_actions_learn_in_float32() -> None:
    model = small_dof_trajectory(signal_spec())
    batch = small_batch(model.spec, rows=model.window.length)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.losses(batch, generator())["loss/inverse"].dtype == torch.float32


def test_the_advantages_that_plans_are_conditioned_on_stay_in_float32() -> None:
    model = small_dof_trajectory(returns="advantage")
    assert model.values.advantage is not None
    batch, found = small_windows(model), []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found.append(model.values.advantage(batch, model.inverse_normalizer))
    torch.testing.assert_close(found[1], found[0])
