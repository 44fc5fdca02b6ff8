"""A small world and small policies whose behaviour can be worked out by hand."""

from typing import Any, Literal

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dof_lightning.envs.base import StepInfo, StepResult, VectorEnv
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.spec import AgentSpec, EnvSpec, ReferenceScores

N_AGENTS, OBSERVATION_DIM, ACTION_DIM, HORIZON = 3, 4, 2, 6

Peek = Literal["nothing", "observation", "noise", "past"]


class ToyEnv(VectorEnv):
    """Three points on a plane; the reward is minus an agent's distance from the origin, plus its index.

    Args:
        early: episode e ends after 1 + seed % HORIZON steps (terminated), else all end at the time limit.
        battle: adds alive, won, legal, state and one agent that is not learned.
        device: where the episodes live.
    """

    def __init__(self, early: bool = False, battle: bool = False, device: str = "cpu") -> None:
        self.spec = EnvSpec(
            name="toy",
            agents=tuple(AgentSpec(f"agent_{i}", OBSERVATION_DIM, ACTION_DIM) for i in range(N_AGENTS)),
            action_kind="continuous",
            horizon=HORIZON,
            state_dim=2 if battle else 0,
            recipe={"family": "toy", "early": early},
            reference=ReferenceScores(random=-10.0, expert=10.0, source="made up"),
        )
        self._early, self._battle, self._device = early, battle, device

    def reset(self, seeds: Tensor) -> Tensor:
        seeds = seeds.to(self._device)
        self._lengths = 1 + seeds % HORIZON if self._early else torch.full_like(seeds, HORIZON)
        angle = (seeds[:, None] % 1000).float() + torch.arange(N_AGENTS, device=seeds.device)
        self.positions = torch.stack((angle.cos(), angle.sin()), dim=-1)
        self._time = 0
        return self._observe()

    def step(self, actions: Tensor) -> StepResult:
        self.positions = self.positions + 0.1 * actions.clamp(-1.0, 1.0)
        self._time += 1
        terminated = (self._time >= self._lengths) if self._early else torch.zeros_like(self._lengths, dtype=torch.bool)
        return StepResult(
            observations=self._observe(),
            rewards=torch.arange(N_AGENTS, device=actions.device) - self.positions.norm(dim=-1),
            terminated=terminated,
            truncated=torch.full_like(terminated, self._time >= HORIZON),
            info=self._info(terminated) if self._battle else StepInfo(),
        )

    def render(self, index: int) -> np.ndarray:
        picture = np.zeros((8, 12, 3), dtype=np.uint8)
        picture[self._time % 8] = 40 * self._time
        return picture

    @property
    def legal(self) -> Tensor | None:
        shape = (*self.positions.shape[:2], ACTION_DIM)
        return torch.ones(shape, dtype=torch.bool, device=self._device) if self._battle else None

    @property
    def state(self) -> Tensor | None:
        return self.positions.mean(dim=1) if self._battle else None

    @property
    def extra_observations(self) -> Tensor | None:
        return self.positions[:, :1]

    def _observe(self) -> Tensor:
        return torch.cat((self.positions, torch.full_like(self.positions, self._time / HORIZON)), dim=-1)

    def _info(self, terminated: Tensor) -> StepInfo:
        extra = self.positions[:, :1]
        return StepInfo(
            legal=self.legal,
            state=self.state,
            alive=torch.ones_like(self.positions[..., 0], dtype=torch.bool),
            won=terminated & (self._lengths % 3 == 0),
            extra_observations=extra,
            extra_actions=extra,
            extra_rewards=extra[..., 0],
        )


class ToyPolicy(DecentralizedPolicy):
    """A linear policy with noise and a memory of its last observation; it may peek at agent i - 1.

    Args:
        peek: which of a teammate's things leaks into an agent's action.
    """

    def __init__(self, peek: Peek = "nothing") -> None:
        super().__init__()
        self.n_agents, self.peek = N_AGENTS, peek
        weight = torch.linspace(-1.0, 1.0, N_AGENTS * OBSERVATION_DIM * ACTION_DIM)
        self.weight = nn.Parameter(weight.view(N_AGENTS, OBSERVATION_DIM, ACTION_DIM))
        self.dropout = nn.Dropout(0.5)

    def initial_carry(self, n_episodes: int, device: torch.device) -> Any:
        return {"last": torch.zeros(n_episodes, self.n_agents, OBSERVATION_DIM, device=device)}

    def draw_noise(self, n_episodes: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n_episodes, self.n_agents, ACTION_DIM, generator=generator, device=generator.device)

    def act_on_noise(self, observations: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        seen = observations + self._leak("observation", observations)
        past = carry["last"] + self._leak("past", carry["last"])
        noise = noise + self._leak("noise", noise)
        mean = torch.einsum("eno,noa->ena", self.dropout(seen + past), self.weight)
        return torch.tanh(mean + 0.1 * noise), {"last": observations}

    def export(self, agent: int) -> "ToyPolicy":
        single = ToyPolicy()
        single.n_agents = 1
        single.weight = nn.Parameter(self.weight[agent : agent + 1].detach().clone())
        return single.train(self.training)

    def _leak(self, what: Peek, values: Tensor) -> Tensor:
        return 0.01 * values.roll(1, dims=1) if self.peek == what else torch.zeros_like(values)


class ToyModule(LightningModule):
    """Learns to act like a constant, with noise from the global generator so that any foreign draw shows."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = ToyPolicy()

    def policy(self) -> DecentralizedPolicy:
        return self.actor

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        observations = batch + 0.1 * torch.randn_like(batch)
        carry = self.actor.initial_carry(len(batch), batch.device)
        actions, _ = self.actor.act_on_noise(observations, carry, None, torch.zeros(*batch.shape[:2], ACTION_DIM))
        return (actions - 0.5).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def toy_loader(n_batches: int = 100, batch_size: int = 8) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    observations = torch.randn(n_batches * batch_size, N_AGENTS, OBSERVATION_DIM, generator=generator)
    return DataLoader(observations, batch_size=batch_size)
