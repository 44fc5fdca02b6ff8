"""DoF trained on XOR data: one agent at +0.8, the other at -0.8, and a coin that nobody sees says which."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from dof_lightning.algorithms.dof_policy import DoFPolicy
from dof_lightning.factorization import noise
from dof_lightning.networks.mlp import MLPDenoiser
from tests.unit.small_dof import cloning, generator, small_batch, small_dof_policy
from tests.unit.small_spec import small_spec


def small_xor_model(weights_seed: int = 0, **changes: Any) -> DoFPolicy:
    settings = cloning(
        noise_factorization=noise.Concat,
        denoiser=partial(MLPDenoiser, hidden=(32, 32)),
        learning_rate=3e-3,
        ema_decay=0.98,
    )
    spec = small_spec(action_dims=(1, 1), observation_dim=1)
    return small_dof_policy(spec, weights_seed=weights_seed, **(settings | changes))


def train_on_xor(model: DoFPolicy, steps: int, seed: int = 0) -> None:
    """Nobody sees anything."""
    optimizer, draw = model.configure_optimizers(), generator(1000 + seed)
    batch = small_batch(model.spec, size=256)
    batch.observations.zero_()
    for step in range(steps):
        side = torch.randint(2, (256, 1), generator=draw) * 2.0 - 1
        actions = 0.8 * torch.cat([side, -side], dim=1) + 0.05 * torch.randn(256, 2, generator=draw)
        batch.actions = actions[:, :, None, None]
        optimizer.zero_grad()
        model.losses(batch, generator(10**6 * seed + step))["loss"].backward()
        optimizer.step()
        model.after_step()


def draw_quadrants(model: DoFPolicy, draws: int = 4000) -> Tensor:
    """`[2, 2]` probabilities of the signs of both agents' actions, each acting alone."""
    policy = model.policy()
    told = policy.draw_shared_seed(draws, generator(1))
    carry = policy.begin(draws, torch.device("cpu"), told)
    with torch.no_grad():
        actions, _ = policy.act_on_noise(torch.zeros(draws, 2, 1), carry, None, policy.draw_noise(draws, generator(2)))
    right = (actions[..., 0] > 0).long()
    return torch.bincount(2 * right[:, 0] + right[:, 1], minlength=4).reshape(2, 2) / draws


def distance_to_xor(quadrants: Tensor) -> float:
    """Total variation; no product is below 0.5."""
    return float((quadrants - torch.tensor([[0.0, 0.5], [0.5, 0.0]])).abs().sum() / 2)
