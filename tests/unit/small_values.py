"""Value algorithms of one-shot games with tiny networks, and batches of all joint choices."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from dof_lightning.algorithms.base import Algorithm
from dof_lightning.algorithms.direct_value import DirectValue
from dof_lightning.algorithms.dof_value import DoFValue
from dof_lightning.batch import EpisodeBatch
from dof_lightning.diffusion import sampler, schedule
from dof_lightning.envs.matrix_game import MatrixGame
from dof_lightning.factorization import data, noise
from dof_lightning.factorization.base import ValueMixer
from dof_lightning.networks.mlp import MLPDenoiser
from dof_lightning.networks.value import AgentwiseValue
from dof_lightning.spec import DatasetSpec
from tests.unit.small_spec import dimension_statistics, small_spec

P1 = [[1.0, 0.0], [18.0, 1.0]]
NONMONOTONE = [[14.0, 0.0], [0.0, 8.0]]


def game_spec(payoff: list[list[float]]) -> DatasetSpec:
    """Of a dataset of uniformly random joint choices."""
    environment = MatrixGame("small_game", payoff).spec
    statistics = replace(
        small_spec((2, 2), action_kind="discrete").statistics,
        observations=dimension_statistics(np.zeros((4, environment.n_agents, 1))),
        discounted_return_knots=np.quantile(payoff, np.linspace(0, 1, 11)).astype(np.float32),
    )
    return DatasetSpec("small_game", environment, discount=1.0, recipe={"data": "small"}, statistics=statistics)


def all_joint_choices(payoff: list[list[float]], repeats: int = 16) -> EpisodeBatch:
    """Every joint choice, equally often."""
    table = torch.tensor(payoff)
    actions = torch.cartesian_prod(*(torch.arange(n) for n in table.shape)).repeat(repeats, 1)
    size, n_agents = actions.shape
    rewards = table[actions.unbind(1)][:, None, None].expand(-1, n_agents, 1)
    return EpisodeBatch(
        observations=torch.zeros(size, n_agents, 2, 1),
        actions=actions[..., None],
        rewards=rewards,
        terminated=torch.ones(size, 1, dtype=torch.bool),
        truncated=torch.zeros(size, 1, dtype=torch.bool),
        return_to_go=rewards,
        valid=torch.ones(size, 2, dtype=torch.bool),
        diffusion_mask=torch.zeros(size, 1, dtype=torch.bool),
        transition_mask=torch.ones(size, n_agents, 1, dtype=torch.bool),
        episode_id=torch.arange(size),
        t=torch.zeros(size, dtype=torch.int64),
    )


def small_direct_value(spec: DatasetSpec, value_mixer: Callable[..., ValueMixer], **changes: Any) -> DirectValue:
    settings: dict[str, Any] = {
        "seed": 0,
        "values": partial(AgentwiseValue, hidden=(16,)),
        "value_mixer": value_mixer,
        "candidates": 4,
        "observation_normalizer": "gaussian",
        "value_learning_rate": 1e-2,
        "ema_decay": 0.95,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DirectValue(spec, **(settings | changes))


def small_dof_value(spec: DatasetSpec, value_mixer: Callable[..., ValueMixer], **changes: Any) -> DoFValue:
    settings: dict[str, Any] = {
        "seed": 0,
        "denoiser": partial(MLPDenoiser, hidden=(32, 32), activation="silu"),
        "noise_factorization": noise.WConcat,
        "data_factorization": data.Concat,
        "schedule": partial(schedule.vp, steps=10),
        "sampler": partial(sampler.DDIM, steps=5),
        "values": partial(AgentwiseValue, hidden=(16,)),
        "value_mixer": value_mixer,
        "candidates": 4,
        "observation_normalizer": "gaussian",
        "learning_rate": 3e-3,
        "value_learning_rate": 1e-2,
        "ema_decay": 0.98,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DoFValue(spec, **(settings | changes))


def train(algorithm: Algorithm, batch: EpisodeBatch, steps: int) -> None:
    optimizer = algorithm.configure_optimizers()
    for step in range(steps):
        optimizer.zero_grad()
        algorithm.losses(batch, torch.Generator().manual_seed(step))["loss"].backward()
        optimizer.step()
        algorithm.after_step()
