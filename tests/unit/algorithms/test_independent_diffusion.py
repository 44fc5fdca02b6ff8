"""Independent Diffusion: N separate trainings, whatever they share a batch with."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dof_lightning.algorithms.independent_diffusion import (
    IndependentDiffusionPolicySettings,
    IndependentDiffusionSettings,
)
from dof_lightning.errors import UserError
from dof_lightning.factorization import data, noise
from dof_lightning.networks.agentwise import clip_gradient_norm
from dof_lightning.networks.attention_mlp import AttentionMLP
from dof_lightning.networks.attention_unet import AttentionUNetSettings
from dof_lightning.networks.critic import AgentwiseCritic
from dof_lightning.networks.inverse import InverseDynamics
from dof_lightning.networks.mlp import MLPDenoiser
from tests.fixtures.policy_models import cloning, generator, small_dof_policy
from tests.fixtures.small_spec import small_spec
from tests.fixtures.trajectory_models import HISTORY, HORIZON, small_dof_trajectory, small_unet, small_windows

N, T = 3, HISTORY + HORIZON
STEPS = 8
CONCAT: dict[str, Any] = {"noise_factorization": noise.Concat, "data_factorization": data.Concat}


def planner(**changes: Any) -> Any:
    return small_dof_trajectory(small_spec((2,) * N), kind=IndependentDiffusionSettings, **(CONCAT | changes))


def policy(**changes: Any) -> Any:
    return small_dof_policy(small_spec((2,) * N), kind=IndependentDiffusionPolicySettings, **cloning(**changes))


def test_planners_trained_together_are_planners_trained_alone_weight_for_weight() -> None:
    """Against N plain trainings that never see another agent."""
    model = planner()
    loners = [_Loner(model, i) for i in range(N)]
    optimizer = model.configure_optimizers()
    for step in range(STEPS):
        batch = small_windows(model, size=32, seed=step)
        batch.diffusion_mask[:] = torch.arange(T) > HISTORY
        batch.transition_mask[:] = batch.valid[:] = True
        optimizer.zero_grad()
        model.losses(batch, generator(step))["loss"].backward()
        for group in model.parameter_groups():
            clip_gradient_norm(group.modules, group.clip)
        optimizer.step()
        draw = generator(step)
        kept = torch.rand(32, N, 1, generator=draw) >= model.settings.return_dropout
        k = torch.randint(1, model.schedule.steps + 1, (32,), generator=draw)
        eps = torch.randn(32, N, T, 4, generator=draw)
        for i, loner in enumerate(loners):
            loner.step(batch, k, eps[:, i], kept[:, i])
    for i, loner in enumerate(loners):
        for mine, theirs in ((model.denoiser, loner.denoiser), (model.inverse, loner.inverse)):
            for together, alone in zip(mine.select_agent(i).parameters(), theirs.parameters(), strict=True):
                torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


class _Loner:
    """One agent's own planner, trained in the plainest way."""

    def __init__(self, model: Any, agent: int) -> None:
        self.model, self.agent = model, agent
        self.denoiser, self.inverse = model.denoiser.select_agent(agent), model.inverse.select_agent(agent)
        self.networks: list[nn.Module] = [self.denoiser, self.inverse]
        parameters = [p for network in self.networks for p in network.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=model.settings.learning_rate)

    def step(self, batch: Any, k: Tensor, eps: Tensor, kept: Tensor) -> None:
        seen = batch.observations[:, self.agent][:, None]
        x0 = self.model.normalizer.select_agent(self.agent).normalize(seen)[:, 0, :-1]
        alpha_bar = self.model.schedule.alpha_bars[k].float()[:, None, None]
        noised = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps
        noised[:, : HISTORY + 1] = x0[:, : HISTORY + 1]
        returns = batch.return_to_go[:, self.agent, HISTORY] / self.model.returns_scale
        condition = torch.stack([returns, torch.ones_like(returns)], -1) * kept
        predicted = self.denoiser(noised[:, None], k, condition[:, None])[:, 0]
        diffusion = nn.functional.mse_loss(predicted[:, HISTORY + 1 :], eps[:, HISTORY + 1 :])
        z = self.model.inverse_normalizer.select_agent(self.agent).normalize(seen)[:, 0]
        acted = self.inverse(z[:, :-1].reshape(-1, 1, 4), z[:, 1:].reshape(-1, 1, 4))[:, 0]
        inverse = nn.functional.mse_loss(acted, batch.actions[:, self.agent].flatten(0, 1))
        self.optimizer.zero_grad()
        ((diffusion + inverse) / 2 / N).backward()
        for network in self.networks:
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        self.optimizer.step()


@pytest.mark.parametrize(
    ("make", "changes", "words"),
    [
        (planner, {"noise_factorization": noise.WConcat}, "noise_factorization: WConcat .* noise_factorization=concat"),
        (planner, {"data_factorization": data.WConcat}, "data_factorization=concat"),
        (planner, {"denoiser": small_unet(sharing="shared")}, r"denoiser\.sharing=independent"),
        (planner, {"denoiser": AttentionUNetSettings(sharing="independent")}, "AttentionUNet cannot run locally"),
        (planner, {"inverse": partial(InverseDynamics, sharing="shared")}, r"algorithm\.inverse\.sharing=independent"),
        (
            planner,
            {"critics": "separate", "candidates": 2, "critic": partial(AgentwiseCritic, sharing="shared")},
            r"algorithm\.critic\.sharing=independent",
        ),
        (planner, {"execution": "centralized"}, "execution=decentralized"),
        (planner, {"shared_seeds": 2}, r"algorithm\.shared_seeds=null"),
        (policy, {"shared_seeds": 2}, r"algorithm\.shared_seeds=null"),
        (policy, {"noise_factorization": noise.WConcat}, "noise_factorization=concat"),
        (policy, {"denoiser": partial(MLPDenoiser, sharing="shared")}, r"denoiser\.sharing=independent"),
        (policy, {"denoiser": AttentionMLP}, "AttentionMLP cannot run locally"),
        (policy, {"critics": "separate", "candidates": 2}, r"algorithm\.critics=none"),
    ],
)
def test_whatever_couples_the_agents_is_refused_in_one_line(make: Any, changes: dict, words: str) -> None:
    assert make().policy().acts_alone
    with pytest.raises(UserError, match=words):
        make(**changes)
