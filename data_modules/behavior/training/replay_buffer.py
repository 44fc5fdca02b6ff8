"""A ring of transitions for online training."""

import torch
from torch import Tensor


class ReplayBuffer:
    """The latest `capacity` transitions of E environments, sampled uniformly.

    Args:
        capacity: transitions kept; enough for one step of all environments at least.
        n_agents: N.
        observation_dim: O.
        action_dim: A.
    """

    def __init__(self, capacity: int, n_agents: int, observation_dim: int, action_dim: int) -> None:
        self.observations = torch.zeros(capacity, n_agents, observation_dim)
        self.actions = torch.zeros(capacity, n_agents, action_dim)
        self.rewards = torch.zeros(capacity)
        self.next_observations = torch.zeros(capacity, n_agents, observation_dim)
        self.terminated = torch.zeros(capacity, dtype=torch.bool)
        self.capacity = capacity
        self.size = 0
        self._cursor = 0

    def add(
        self,
        observations: Tensor,
        actions: Tensor,
        rewards: Tensor,
        next_observations: Tensor,
        terminated: Tensor | None = None,
    ) -> None:
        """Stores one step of every environment, in place of the oldest ones where the buffer is full.

        Args:
            observations: `[E, N, O]`.
            actions: `[E, N, A]`.
            rewards: `[E]`, of the team.
            next_observations: `[E, N, O]`.
            terminated: `[E]` bool, episodes that really ended; None where none can.
        """
        count = len(observations)
        rows = (self._cursor + torch.arange(count)) % self.capacity
        self.observations[rows] = observations
        self.actions[rows] = actions
        self.rewards[rows] = rewards
        self.next_observations[rows] = next_observations
        if terminated is not None:
            self.terminated[rows] = terminated
        self.size = min(max(self.size, self._cursor + count), self.capacity)
        self._cursor = (self._cursor + count) % self.capacity

    def sample(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Observations `[B, N, O]`, actions `[B, N, A]`, rewards `[B]`, next observations, and real ends `[B]` bool."""
        rows = torch.randint(self.size, (batch_size,), generator=generator)
        return (
            self.observations[rows],
            self.actions[rows],
            self.rewards[rows],
            self.next_observations[rows],
            self.terminated[rows],
        )
