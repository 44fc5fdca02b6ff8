"""Learning rates that rise and fall with the optimiser's steps, for every parameter group alike."""

import csv
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from callbacks.learning_rate import LearningRateCallback
from dof_lightning.algorithms.base import learning_rate_factor
from dof_lightning.algorithms.dof_policy import DoFPolicy
from dof_lightning.config import checks
from dof_lightning.config import compose as configuration
from dof_lightning.config.identity import config_hash, settings_hash
from dof_lightning.errors import UserError
from tests.fixtures.policy_models import small_batch, small_dof_policy
from tests.fixtures.trainers import quiet_trainer

EXPERIMENT = "experiment=mpe_spread_expert"
STEPS, WARMUP = 8, 3
COSINE = {"learning_rate_schedule": "cosine", "learning_rate_warmup_steps": WARMUP}


def test_rates_rise_in_a_line_and_fall_to_zero_at_the_end() -> None:
    factors = [learning_rate_factor(step, 100, 20) for step in range(101)]
    assert factors[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert factors[20] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.0)
    assert all(above > below for above, below in itertools.pairwise(factors[20:]))
    assert learning_rate_factor(101, 100, 20) == factors[100], "it must not rise again"


def test_without_a_warm_up_it_is_the_cosine_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    for step in range(50):
        assert theirs.get_last_lr()[0] == pytest.approx(learning_rate_factor(step, 50), abs=1e-12)
        optimizer.step()
        theirs.step()


class _Saving(Callback):
    """Keeps a checkpoint of step 5, between the warm-up and the end."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        path = Path(trainer.default_root_dir) / "5.ckpt"
        if trainer.global_step == 5 and not path.exists():  # not again in the middle of the next step's batches
            trainer.save_checkpoint(path)


def _train(folder: Path, resume: Path | None = None, **settings: Any) -> tuple[DoFPolicy, list[dict[str, str]]]:
    """Trains with two batches per step; returns the algorithm, and the logged rates."""
    model = small_dof_policy(learning_rate=1e-2, critic_learning_rate=1e-3, **settings)
    trainer = quiet_trainer(
        folder,
        max_steps=STEPS,
        max_epochs=-1,
        logger=CSVLogger(folder, name="", version="", flush_logs_every_n_steps=1),
        callbacks=[LearningRateCallback(1), _Saving()],
        enable_checkpointing=False,
        accumulate_grad_batches=2,
    )
    batches = DataLoader([small_batch(model.spec, size=4)] * 64, batch_size=None)
    trainer.fit(model, batches, ckpt_path=resume, weights_only=True)
    with (folder / "metrics.csv").open() as file:
        return model, [row for row in csv.DictReader(file) if row["learning_rate/denoiser"]]


def test_every_group_follows_it_in_optimiser_steps(tmp_path: Path) -> None:
    _, rows = _train(tmp_path, **COSINE)
    factors = [learning_rate_factor(step, STEPS, WARMUP) for step in range(1, STEPS + 1)]
    assert [int(row["step"]) for row in rows] == list(range(1, STEPS + 1))
    for group, rate in (("denoiser", 1e-2), ("critic", 1e-3)):
        assert [float(row[f"learning_rate/{group}"]) for row in rows] == pytest.approx([rate * f for f in factors])


def test_a_resumed_schedule_continues_to_the_bit(tmp_path: Path) -> None:
    whole, rows = _train(tmp_path / "whole", **COSINE)
    resumed, further = _train(tmp_path / "resumed", tmp_path / "whole" / "5.ckpt", **COSINE)
    assert further == rows[5:]
    assert all(map(torch.equal, resumed.state_dict().values(), whole.state_dict().values()))
    constant, _ = _train(tmp_path / "constant")
    assert not torch.equal(next(constant.denoiser.parameters()), next(whole.denoiser.parameters()))


def test_without_a_schedule_checkpoints_and_hashes_are_what_they_were(tmp_path: Path) -> None:
    _train(tmp_path)
    assert torch.load(tmp_path / "5.ckpt", weights_only=True)["lr_schedulers"] == []
    for algorithm in ("dof_policy", "dof_trajectory", "bc", "qmix", "dof_value"):
        plain = configuration.to_plain(configuration.compose([EXPERIMENT, f"algorithm={algorithm}"]))
        before = {**plain, "algorithm": {k: v for k, v in plain["algorithm"].items() if k not in COSINE}}
        assert before["algorithm"].keys() < plain["algorithm"].keys()
        for digest in (config_hash, settings_hash):
            assert digest(plain) == digest(before)
            assert digest(plain) != digest({**plain, "algorithm": plain["algorithm"] | COSINE})


@pytest.mark.parametrize("algorithm", ["dof_policy", "dof_trajectory", "td3_bc", "dof_value", "madt"])
def test_a_warm_up_of_constant_rates_is_refused(algorithm: str) -> None:
    typed = [EXPERIMENT, f"algorithm={algorithm}", "algorithm.learning_rate_warmup_steps=10"]
    with pytest.raises(UserError, match=r"warmup_steps=10 has no effect: algorithm\.learning_rate_schedule=constant"):
        checks.check(configuration.compose(typed))
    checks.check(configuration.compose([*typed, "algorithm.learning_rate_schedule=cosine"]))


def test_a_warm_up_must_end_before_the_training() -> None:
    typed = [EXPERIMENT, "trainer.max_steps=10", "algorithm.learning_rate_schedule=cosine"]
    with pytest.raises(UserError, match=r"learning_rate_warmup_steps=10 must be below trainer\.max_steps=10"):
        checks.check(configuration.compose([*typed, "algorithm.learning_rate_warmup_steps=10"]))
    trainer, model = quiet_trainer(max_steps=-1, max_epochs=-1), small_dof_policy(learning_rate_schedule="cosine")
    batches = DataLoader([small_batch(model.spec, size=4)], batch_size=None)
    with pytest.raises(UserError, match=r"cosine ends at trainer\.max_steps=inf"):
        trainer.fit(model, batches)
