"""Data that no product of two agents' laws can generate, and small models of them, to test the IGD gauge on."""

import torch
from torch import Tensor

from benchmarks.subjects import made_up_batch, made_up_spec, make_dof_policy
from dof_lightning.algorithms.dof_policy import DoFPolicy
from dof_lightning.batch import EpisodeBatch
from dof_lightning.seeding import make_generator

LEVEL, SPREAD = 0.8, 0.05
SETTINGS = (
    "experiment=mpe_spread_expert",
    "algorithm=dof_cloning",
    "data_factorization=concat",
    "denoiser.hidden=[32,32]",
    "algorithm.learning_rate=3e-3",
    "algorithm.ema_decay=0.98",
)
OPTIONS = ("concat", "wconcat", "dec_attention", "qmix", "attention")
CENTRALIZED = ("qmix", "attention")


def xor_batch(size: int, generator: torch.Generator) -> EpisodeBatch:
    """Windows of two agents that observe nothing; one acts at +0.8, the other at -0.8, and a coin decides which.

    The total correlation is log 2: that of the quadrants, the spread (0.05) around them being independent.
    """
    batch = made_up_batch(made_up_spec(2, observation_dim=1, action_dim=1), size)
    side = torch.randint(2, (size, 1), generator=generator) * 2.0 - 1
    actions = LEVEL * torch.cat([side, -side], dim=1) + SPREAD * torch.randn(size, 2, generator=generator)
    batch.observations.zero_()
    batch.actions = actions[:, :, None, None]
    return batch


def trained_on_xor(option: str, seed: int, steps: int, diffusion_steps: int = 10) -> DoFPolicy:
    """Trains a model of an option of group noise_factorization by cloning; K = `diffusion_steps` (vp schedule).

    The seed determines weights, data and noise.
    """
    spec = made_up_spec(2, observation_dim=1, action_dim=1)
    execution = "centralized" if option in CENTRALIZED else "decentralized"
    chain = (f"schedule.steps={diffusion_steps}", "sampler=ddpm", "sampler.steps=null")
    model = make_dof_policy(spec, [*SETTINGS, *chain, f"noise_factorization={option}", f"execution={execution}"], seed)
    train_on_xor(model, seed, steps)
    return model


def train_on_xor(model: DoFPolicy, seed: int, steps: int, batch_size: int = 256) -> None:
    """Trains a model of that spec by its own losses; arguments as `trained_on_xor`."""
    optimizer, draw = model.make_optimizer(), make_generator(seed, "xor", "data")
    for step in range(steps):
        optimizer.zero_grad()
        model.losses(xor_batch(batch_size, draw), make_generator(seed, "xor", step))["loss"].backward()  # type: ignore
        optimizer.step()
        model.after_step()


def forbidden_share(x: Tensor) -> float:
    """Share of joint draws `[B, 2, 1]` in the two quadrants that the data leave empty; a product has at best 0.5."""
    signs = x.squeeze(-1).sign()
    return float((signs[:, 0] == signs[:, 1]).float().mean())
