"""Small DoF-Policies and batches for unit tests."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from dof_lightning.algorithms.dof_policy import DoFPolicy
from dof_lightning.batch import EpisodeBatch
from dof_lightning.diffusion import sampler, schedule
from dof_lightning.factorization import data, noise, value
from dof_lightning.networks.critic import AgentwiseCritic, JointCritic
from dof_lightning.networks.mlp import MLPDenoiser
from dof_lightning.spec import DatasetSpec
from tests.unit.small_spec import small_spec


def small_dof_policy(
    spec: DatasetSpec | None = None, weights_seed: int = 0, kind: type[DoFPolicy] = DoFPolicy, **changes: Any
) -> DoFPolicy:
    """The default DoF-Policy (f, h wconcat, mixed critic, one-step Q-gradient) with tiny networks."""
    settings: dict[str, Any] = {
        "seed": 0,
        "denoiser": partial(MLPDenoiser, hidden=(16, 16)),
        "noise_factorization": noise.WConcat,
        "data_factorization": data.WConcat,
        "schedule": partial(schedule.vp, steps=10),
        "sampler": sampler.DDPM,
        "critic": partial(AgentwiseCritic, hidden=(16, 16)),
        "joint_critic": partial(JointCritic, hidden=(16, 16)),
        "value_mixer": value.Monotone,
        "target_sampler": partial(sampler.DDIM, steps=2),
        "critics": "mixed",
        "q_gradient": "one_step",
        "q_weight": 0.5,
        "reconstruction_weight": 0.1,
        "discount": 0.9,
        "reward_scale": 1.0,
        "candidates": 4,
        "observation_normalizer": "gaussian",
        "learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
        "gradient_clip": 1.0,
        "critic_gradient_clip": 0.5,
        "ema_decay": 0.9,
        "target_update_rate": 0.1,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights_seed)
        return kind(spec or small_spec(), **(settings | changes))


def cloning(**changes: Any) -> dict[str, Any]:
    """Settings that leave cloning only: with concat this is Independent Diffusion."""
    settings = {
        "noise_factorization": noise.Concat,
        "data_factorization": data.Concat,
        "critics": "none",
        "q_gradient": "none",
        "reconstruction_weight": 0.0,
        "candidates": 1,
    }
    return settings | changes


def small_batch(spec: DatasetSpec, size: int = 32, seed: int = 0, dtype: torch.dtype = torch.float32) -> EpisodeBatch:
    """Random windows of one row; a third of them end in a terminal, a third in a time limit.

    Discrete actions come with legal masks; a state comes where the spec has one.
    """
    generator = torch.Generator().manual_seed(seed)
    n, o, a = spec.n_agents, spec.observation_dim, spec.action_dim
    kind = torch.arange(size) % 3
    actions = torch.rand(size, n, 1, a, generator=generator, dtype=dtype) * 2 - 1
    batch = EpisodeBatch(
        observations=torch.randn(size, n, 2, o, generator=generator, dtype=dtype),
        actions=actions * spec.environment.action_mask()[:, None],
        rewards=torch.randn(size, n, 1, generator=generator, dtype=dtype),
        terminated=(kind == 1)[:, None],
        truncated=(kind == 2)[:, None],
        return_to_go=torch.zeros(size, n, 1, dtype=dtype),
        valid=torch.ones(size, 2, dtype=torch.bool),
        diffusion_mask=torch.zeros(size, 1, dtype=torch.bool),
        transition_mask=torch.ones(size, n, 1, dtype=torch.bool),
        episode_id=torch.arange(size),
        t=torch.zeros(size, dtype=torch.int64),
    )
    if spec.action_kind == "discrete":
        batch.legal, batch.actions = _discrete(spec, size, generator)
    if spec.state_dim:
        batch.state = torch.randn(size, 2, spec.state_dim, generator=generator, dtype=dtype)
    return batch


def _discrete(spec: DatasetSpec, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Legal masks `[B, N, 2, A]` that forbid about a third, and legal actions `[B, N, 1]`."""
    mask = spec.environment.action_mask()
    score = torch.rand(size, spec.n_agents, 2, spec.action_dim, generator=generator).masked_fill(~mask[:, None], -1.0)
    legal = (score > 0.33) | (score == score.amax(-1, keepdim=True))
    other = torch.rand(score.shape, generator=generator).masked_fill(~legal, -1.0)
    return legal, other.argmax(-1)[:, :, :1]


def generator(seed: int = 0) -> torch.Generator:
    """A fresh generator."""
    return torch.Generator().manual_seed(seed)
