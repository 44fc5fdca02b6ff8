"""The subjects of the measurements: algorithms from `conf/` on made-up data of any number of agents."""

from collections.abc import Sequence

import numpy as np
import torch

from dof_lightning.algorithms.base import Algorithm
from dof_lightning.algorithms.dof_policy import DoFPolicy
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.config import checks
from dof_lightning.config import compose as configuration
from dof_lightning.networks.agentwise import clip_gradient_norm
from dof_lightning.seeding import make_generator
from dof_lightning.spec import AgentSpec, DatasetSpec, DatasetStatistics, DimensionStatistics, EnvSpec

PRESET = ("experiment=mpe_spread_expert",)
PAPER = (
    *PRESET,
    "denoiser.hidden=[256,256,256]",
    "denoiser.activation=mish",
    "algorithm.critic.hidden=[256,256,256]",
    "algorithm.critic.activation=mish",
    "algorithm.target_sampler.steps=10",
    "sampler.steps=10",
)
OBSERVATION_DIM, ACTION_DIM = 18, 2


def made_up_spec(n_agents: int, observation_dim: int = OBSERVATION_DIM, action_dim: int = ACTION_DIM) -> DatasetSpec:
    """A dataset whose observations are standard normal and whose actions are uniform."""
    agents = tuple(AgentSpec(f"agent_{i}", observation_dim, action_dim) for i in range(n_agents))
    environment = EnvSpec("made_up", agents, "continuous", horizon=25, state_dim=0, recipe={"game": "made up"})
    statistics = DatasetStatistics(
        observations=_statistics(n_agents, observation_dim, 4.0),
        actions=_statistics(n_agents, action_dim, 1.0),
        return_mean=0.0,
        return_std=1.0,
        discounted_return_knots=np.linspace(0, 1, 11, dtype=np.float32),
    )
    return DatasetSpec("made_up", environment, discount=0.99, recipe={"data": "made up"}, statistics=statistics)


def made_up_batch(spec: DatasetSpec, size: int) -> EpisodeBatch:
    """Makes B windows of one row of that dataset."""
    return made_up_windows(spec, Window(history=0, horizon=1), size)


def made_up_windows(spec: DatasetSpec, window: Window, size: int) -> EpisodeBatch:
    """Makes B windows of that dataset, without padded rows."""
    generator, n, rows = make_generator(0, "made-up batch"), spec.n_agents, window.length
    return EpisodeBatch(
        observations=torch.randn(size, n, rows + 1, spec.observation_dim, generator=generator),
        actions=torch.rand(size, n, rows, spec.action_dim, generator=generator) * 2 - 1,
        rewards=torch.randn(size, n, rows, generator=generator),
        terminated=torch.zeros(size, rows, dtype=torch.bool),
        truncated=torch.zeros(size, rows, dtype=torch.bool),
        return_to_go=torch.zeros(size, n, rows),
        valid=torch.ones(size, rows + 1, dtype=torch.bool),
        diffusion_mask=(torch.arange(rows) > window.history).expand(size, rows),
        transition_mask=torch.ones(size, n, rows, dtype=torch.bool),
        episode_id=torch.arange(size),
        t=torch.zeros(size, dtype=torch.int64),
        history=window.history,
    )


def make_dof_policy(spec: DatasetSpec, overrides: Sequence[str] = PRESET, seed: int = 0) -> DoFPolicy:
    """Builds DoF-Policy as the command line would; see `make_algorithm`."""
    algorithm = make_algorithm(spec, overrides, seed)
    assert isinstance(algorithm, DoFPolicy)
    return algorithm


def make_algorithm(spec: DatasetSpec, overrides: Sequence[str], seed: int = 0) -> Algorithm:
    """Builds an algorithm as the command line would.

    Raises:
        UserError: an override is refused.
    """
    cfg = configuration.compose(overrides)
    checks.check(cfg)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        algorithm: Algorithm = configuration.build(configuration.to_plain(cfg)["algorithm"])(spec=spec)
    return algorithm


class Update:
    """Training steps of an algorithm, one per call, on the same batch and without Lightning around them."""

    def __init__(self, algorithm: Algorithm, batch: EpisodeBatch) -> None:
        self.algorithm = algorithm
        self._batch = batch
        self._optimizer = self._make_optimizer()
        self._step = 0

    def __call__(self) -> dict[str, torch.Tensor]:
        """Performs a step (losses, gradients, clipping, Adam, moving averages); returns the losses before it."""
        losses = self.algorithm.losses(self._batch, make_generator(0, "benchmark", self._step))
        self._optimizer.zero_grad()
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        for group in self.algorithm.parameter_groups():
            self._clip(group.modules, group.clip)
        self._optimizer.step()
        self.algorithm.after_step()
        self._step += 1
        return losses

    def _make_optimizer(self) -> torch.optim.Optimizer:
        return self.algorithm.make_optimizer()

    def _clip(self, modules: Sequence[torch.nn.Module], limit: float | None) -> None:
        clip_gradient_norm(modules, limit)


def _statistics(n_agents: int, dim: int, largest: float) -> DimensionStatistics:
    shape = (n_agents, dim)
    knots = np.linspace(-largest, largest, 11, dtype=np.float32)
    return DimensionStatistics(
        mean=np.zeros(shape, np.float32),
        std=np.ones(shape, np.float32),
        minimum=np.full(shape, -largest, np.float32),
        maximum=np.full(shape, largest, np.float32),
        knots=np.broadcast_to(knots[:, None, None], (len(knots), *shape)).copy(),
    )
