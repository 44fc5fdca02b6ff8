"""The base of every algorithm: noise as a function of integers, clipping per agent, logs of the step they name."""

from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dof_lightning.algorithms.base import Algorithm, ParameterGroup
from dof_lightning.algorithms.dof_policy import DoFPolicy
from dof_lightning.batch import EpisodeBatch
from dof_lightning.config.compose import build, compose, to_plain
from dof_lightning.policy import DecentralizedPolicy
from tests.fixtures.policy_models import cloning, generator, small_batch, small_dof_policy
from tests.fixtures.trainers import quiet_trainer


def test_noise_is_a_function_of_seed_step_rank_and_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def seed_of(step: int = 0, rank: int = 0, micro_batch: int = 0, seed: int = 0) -> int:
        monkeypatch.setattr(DoFPolicy, "global_step", step)
        monkeypatch.setattr(DoFPolicy, "global_rank", rank)
        return small_dof_policy(seed=seed)._generator("train", micro_batch).initial_seed()

    seeds = [seed_of(), seed_of(step=1), seed_of(rank=1), seed_of(micro_batch=1), seed_of(seed=1)]
    assert len(set(seeds)) == len(seeds)
    assert seed_of() == seeds[0]


def test_gradients_are_clipped_agent_by_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DoFPolicy, "_is_logging_step", lambda self: False)
    model = small_dof_policy(gradient_clip=1e-3, critic_gradient_clip=1e-2)
    model.losses(small_batch(model.spec), generator())["loss"].backward()
    model.configure_gradient_clipping(model.configure_optimizers())
    for group, limit in (("denoiser", 1e-3), ("critic", 1e-2)):
        module = model.denoiser if group == "denoiser" else model.critic.online.critic  # type: ignore[union-attr]
        for agent in range(3):
            rows = [p.grad.unflatten(0, (-1, 3))[:, agent] for p in module.parameters() if p.grad is not None]
            norm = torch.cat([row.flatten() for row in rows]).norm()
            assert 0 < norm <= limit * 1.01


class _Counting(Algorithm):
    """Its loss at step s is s."""

    def __init__(self) -> None:
        model = small_dof_policy(**cloning())
        super().__init__(model.spec, model.settings)
        self.weight = nn.Parameter(torch.zeros(()))

    def losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        return {"loss": self.weight * 0 + float(self.global_step), "loss/step": torch.tensor(float(self.global_step))}

    def heldout_losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        return {}

    def policy(self) -> DecentralizedPolicy:
        raise AssertionError("nobody acts here")

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("weight", (self,), 1e-3, None)]


class _Memory(Logger):
    def __init__(self) -> None:
        super().__init__()
        self.points: list[tuple[int, float]] = []

    name = version = "memory"

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        return None

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if "loss/step" in metrics:
            self.points.append((int(step or 0), metrics["loss/step"]))


def test_curves_show_the_step_they_name() -> None:
    memory = _Memory()
    trainer = quiet_trainer(
        max_steps=12,
        logger=memory,
        log_every_n_steps=4,
    )
    batch = small_batch(small_dof_policy(**cloning()).spec, size=4)
    trainer.fit(_Counting(), DataLoader([batch] * 20, batch_size=None))
    assert memory.points == [(3, 3.0), (7, 7.0), (11, 11.0)]


def test_configured_k_reaches_the_model() -> None:
    """The released code rebuilt its policy with defaults; here through the same yaml as a user's run."""
    config = to_plain(compose(["experiment=mpe_spread_expert", "schedule.steps=37", "sampler.steps=null"]))
    model = build(config["algorithm"])(spec=small_dof_policy().spec)
    assert model.schedule.steps == 37
    assert len(model.sampler.timesteps) == 37
