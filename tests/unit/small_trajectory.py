"""Small DoF-Trajectories and windows for unit tests."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from dof_lightning.algorithms.dof_trajectory import DoFTrajectory
from dof_lightning.batch import EpisodeBatch
from dof_lightning.diffusion import sampler, schedule
from dof_lightning.factorization import data, noise
from dof_lightning.networks.inverse import InverseDynamics
from dof_lightning.networks.temporal_unet import TemporalUNet
from dof_lightning.spec import DatasetSpec
from tests.unit.small_spec import small_spec

HISTORY, HORIZON = 2, 4


def small_unet(**changes: Any) -> partial:
    """A U-Net of two levels with few channels."""
    return partial(TemporalUNet, **({"channels": 8, "norm_groups": 4, "embedding": 8} | changes))


def small_dof_trajectory(
    spec: DatasetSpec | None = None, weights_seed: int = 0, kind: type[DoFTrajectory] = DoFTrajectory, **changes: Any
) -> DoFTrajectory:
    """DoF-Trajectory (f, h wconcat) with a history, guidance and tiny networks."""
    settings: dict[str, Any] = {
        "seed": 0,
        "denoiser": small_unet(),
        "noise_factorization": noise.WConcat,
        "data_factorization": data.WConcat,
        "schedule": partial(schedule.cosine, steps=20),
        "sampler": partial(sampler.DDIM, steps=4),
        "inverse": partial(InverseDynamics, hidden=(16,)),
        "history": HISTORY,
        "horizon": HORIZON,
        "return_dropout": 0.25,
        "guidance_weight": 1.2,
        "returns_scale": 2.0,
        "target_return": None,
        "target_quantile": 0.95,
        "return_update": "none",
        "next_row_weight": 1.0,
        "reconstruction_weight": 1.0,
        "observation_normalizer": "cdf",
        "inverse_normalizer": "gaussian",
        "learning_rate": 1e-3,
        "gradient_clip": 1.0,
        "ema_decay": 0.9,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights_seed)
        return kind(spec or small_spec(), **(settings | changes))


def small_windows(model: DoFTrajectory, size: int = 16, seed: int = 0) -> EpisodeBatch:
    """Windows as `gather_windows` makes them at an episode's head and tail: some rows before and behind it."""
    spec, window = model.spec, model.window
    generator = torch.Generator().manual_seed(seed)
    n, a, t = spec.n_agents, spec.action_dim, window.length
    shape = (size, n, t + 1)
    first = torch.randint(0, window.history + 1, (size, 1), generator=generator)
    last = torch.randint(window.history + 1, t + 1, (size, 1), generator=generator)
    valid = (torch.arange(t + 1) >= first) & (torch.arange(t + 1) <= last)
    observations = torch.randn(*shape, spec.observation_dim, generator=generator)
    actions: Tensor = torch.rand(size, n, t, a, generator=generator) * 2 - 1
    actions = actions * spec.environment.action_mask()[:, None]
    batch = EpisodeBatch(
        observations=observations,
        actions=actions,
        rewards=torch.randn(size, n, t, generator=generator),
        terminated=torch.zeros(size, t, dtype=torch.bool),
        truncated=torch.zeros(size, t, dtype=torch.bool),
        return_to_go=torch.randn(size, n, t, generator=generator),
        valid=valid,
        diffusion_mask=(torch.arange(t) > window.history) & valid[:, :-1],
        transition_mask=(valid[:, :-1] & valid[:, 1:])[:, None].repeat(1, n, 1),
        episode_id=torch.arange(size),
        t=torch.zeros(size, dtype=torch.int64),
        history=window.history,
    )
    if spec.action_kind == "discrete":
        mask = spec.environment.action_mask()[:, None].expand(*shape, a)
        score = torch.rand(*shape, a, generator=generator).masked_fill(~mask, -1.0)
        batch.legal = (score > 0.4) | (score == score.amax(-1, keepdim=True))
        batch.actions = torch.rand(*shape, a, generator=generator).masked_fill(~batch.legal, -1.0).argmax(-1)[..., :-1]
    return batch
