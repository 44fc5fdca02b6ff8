"""Results of a rollout: sums and, on request, the rows of a dataset."""

from collections import defaultdict
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dof_lightning.envs.base import StepResult

_ONE_ROW_MORE = ("observations", "legal", "state", "alive", "extra_observations")
_WITHOUT_AGENTS = ("state", "terminated")


@dataclass
class Rollout:
    """E finished episodes; every tensor lies on the CPU.

    Recorded arrays are None unless `run_rollout(record=True)`; L is the environment's horizon, and rows after an
    episode's end are zero. An episode whose last row is not `terminated` reached its time limit.

    Attributes:
        returns: `[E]` float64, undiscounted episode return, mean over agents.
        agent_returns: `[E, N]` float64.
        lengths: `[E]` int64, steps of each episode.
        won: `[E]` bool, or None if there is nothing to win.
        steps: number of environment steps, summed over episodes.
        observations: `[E, N, L+1, O]` float32.
        actions: `[E, N, L, A]` float32, or `[E, N, L]` int64 for discrete actions, as the policy returned them.
        rewards: `[E, N, L]`.
        terminated: `[E, L]` bool.
        legal: `[E, N, L+1, A]` bool.
        state: `[E, L+1, S]`.
        alive: `[E, N, L+1]` bool.
        extra_observations: `[E, M, L+1, O']`, observations of the agents that are not learned.
        extra_actions: `[E, M, L, A']`.
        extra_rewards: `[E, M, L]`.
        frames: pictures `[height, width, 3]` uint8 of the rendered episode, first one before its first step.
    """

    returns: Tensor
    agent_returns: Tensor
    lengths: Tensor
    won: Tensor | None
    steps: int
    observations: Tensor | None = None
    actions: Tensor | None = None
    rewards: Tensor | None = None
    terminated: Tensor | None = None
    legal: Tensor | None = None
    state: Tensor | None = None
    alive: Tensor | None = None
    extra_observations: Tensor | None = None
    extra_actions: Tensor | None = None
    extra_rewards: Tensor | None = None
    frames: list[np.ndarray] | None = None


class Tally:
    """Sums of E episodes; those that have ended no longer count."""

    def __init__(self, observations: Tensor) -> None:
        n_episodes, n_agents, device = *observations.shape[:2], observations.device
        self.active = torch.ones(n_episodes, dtype=torch.bool, device=device)
        self._lengths = torch.zeros(n_episodes, dtype=torch.int64, device=device)
        self._agent_returns = torch.zeros(n_episodes, n_agents, dtype=torch.float64, device=device)
        self._won: Tensor | None = None

    def add(self, result: StepResult) -> None:
        """Counts one step of the episodes that are still running."""
        self._lengths += self.active
        self._agent_returns += result.rewards.double().masked_fill(~self.active[:, None], 0.0)
        if result.info.won is not None:
            won = result.info.won & self.active
            self._won = won if self._won is None else self._won | won
        self.active = self.active & ~(result.terminated | result.truncated)

    def finish(self, frames: list[np.ndarray] | None, arrays: dict[str, Tensor]) -> Rollout:
        """Returns the sums as a rollout, together with the drawn frames and the recorded rows."""
        agent_returns, lengths = self._agent_returns.cpu(), self._lengths.cpu()
        return Rollout(
            returns=agent_returns.mean(dim=1),
            agent_returns=agent_returns,
            lengths=lengths,
            won=None if self._won is None else self._won.cpu(),
            steps=int(lengths.sum()),
            frames=frames,
            **arrays,
        )


class Recorder:
    """Collects rows step by step and arranges them with time after the agents."""

    def __init__(self) -> None:
        self._rows: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, active: Tensor, **values: Tensor | None) -> None:
        """Appends one row to each named array; rows of ended episodes become zero."""
        for name, value in values.items():
            if value is not None:
                ended = ~active.view(-1, *[1] * (value.dim() - 1))
                self._rows[name].append(value.masked_fill(ended.to(value.device), 0))

    def add_step(self, active: Tensor, actions: Tensor, result: StepResult) -> None:
        """Appends the results of one step; `active [E]` marks the episodes that were running before it."""
        info = result.info
        if info.alive is not None and "alive" not in self._rows:
            self.add(active, alive=torch.ones_like(info.alive))
        self.add(
            active,
            observations=result.observations,
            actions=actions,
            rewards=result.rewards,
            terminated=result.terminated,
            legal=info.legal,
            state=info.state,
            alive=info.alive,
            extra_observations=info.extra_observations,
            extra_actions=info.extra_actions,
            extra_rewards=info.extra_rewards,
        )

    def arrays(self, horizon: int) -> dict[str, Tensor]:
        """The arrays of `Rollout` by name, padded with zeros to the horizon."""
        arrays = {}
        for name, rows in self._rows.items():
            missing = horizon + (name in _ONE_ROW_MORE) - len(rows)
            rows = rows + [torch.zeros_like(rows[0])] * missing
            arrays[name] = torch.stack(rows, dim=1 if name in _WITHOUT_AGENTS else 2).cpu()
        return arrays


def no_episodes(n_agents: int) -> Rollout:
    """The rollout of a rank without episodes."""
    empty = torch.zeros(0, dtype=torch.float64)
    return Rollout(empty, empty.view(0, 1).expand(0, n_agents), torch.zeros(0, dtype=torch.int64), None, 0)


def concatenate(parts: list[Rollout]) -> Rollout:
    """Joins several rollouts into one, episodes in order."""
    joined: dict[str, Any] = {}
    for name in (f.name for f in fields(Rollout)):
        values = [value for part in parts if (value := getattr(part, name)) is not None]
        joined[name] = torch.cat(values) if values and isinstance(values[0], Tensor) else next(iter(values), None)
    return Rollout(**joined | {"steps": sum(part.steps for part in parts)})
