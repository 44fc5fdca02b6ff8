"""The particle world as a PettingZoo environment, for tools that use PettingZoo."""

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from pettingzoo import ParallelEnv
from torch import Tensor

from dof_lightning.envs.particle.env import ParticleEnv, Task
from dof_lightning.seeding import derive_seed

_PerAgent = dict[str, Any]


class ParticleParallelEnv(ParallelEnv[str, np.ndarray, np.ndarray]):
    """One episode of `ParticleEnv` at a time; `reset(seed=s)` starts the same episode as `ParticleEnv.reset([s])`.

    Args:
        task: `spread`, `tag` or `world`.
        prey: see `ParticleEnv`; the prey is part of the environment, not one of its agents.
        render_mode: `rgb_array` or None.

    Raises:
        UserError: the task or the prey is unknown, or a prey is given for Spread.
    """

    metadata = {"name": "particle_v0", "render_modes": ["rgb_array"], "render_fps": 10, "is_parallelizable": True}

    def __init__(self, task: Task = "spread", prey: str | None = None, render_mode: str | None = None) -> None:
        self._env = ParticleEnv(task, prey=prey)
        self.render_mode = render_mode
        self.possible_agents = [agent.name for agent in self._env.spec.agents]
        self.agents: list[str] = []
        spec = self._env.spec
        self._observation_spaces = {
            agent.name: Box(-np.inf, np.inf, (agent.observation_dim,), np.float32) for agent in spec.agents
        }
        self._action_spaces = {agent.name: Box(-1.0, 1.0, (agent.action_dim,), np.float32) for agent in spec.agents}
        self._seed: int | None = None
        self._episode = 0

    def observation_space(self, agent: str) -> Box:
        """The space `[O]`, unbounded."""
        return self._observation_spaces[agent]

    def action_space(self, agent: str) -> Box:
        """The space `[2]` in [-1, 1]: the force's direction and strength."""
        return self._action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[_PerAgent, _PerAgent]:
        """Starts an episode.

        Args:
            seed: the episode's seed; without one, episodes follow from the last seed, or from new entropy.
            options: not used.

        Returns:
            observations and empty infos, by agent.
        """
        observations = self._env.reset(torch.tensor([self._next_seed(seed)]))
        self.agents = list(self.possible_agents)
        return self._by_agent(observations), {agent: {} for agent in self.agents}

    def step(self, actions: _PerAgent) -> tuple[_PerAgent, _PerAgent, _PerAgent, _PerAgent, _PerAgent]:
        """Advances the episode by one step; after the last one `agents` is empty.

        Args:
            actions: `[2]` for every live agent.

        Returns:
            observations, rewards, terminations (never), truncations and infos, by agent.

        Raises:
            RuntimeError: the episode is over, or never began.
        """
        if not self.agents:
            raise RuntimeError("no episode is running: call reset before step")
        stacked = np.stack([np.asarray(actions[agent], dtype=np.float32) for agent in self.agents])
        result = self._env.step(torch.from_numpy(stacked)[None])
        live, over = self.agents, bool(result.truncated[0])
        self.agents = [] if over else live
        rewards = dict(zip(live, result.rewards[0].tolist(), strict=True))
        return (
            self._by_agent(result.observations),
            rewards,
            dict.fromkeys(live, False),
            dict.fromkeys(live, over),
            {agent: {} for agent in live},
        )

    def render(self) -> np.ndarray | None:
        """Draws `[400, 400, 3]` uint8 with `render_mode="rgb_array"`; returns None otherwise."""
        return self._env.render(0) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Does nothing: no resources are held."""

    def _next_seed(self, seed: int | None) -> int:
        if seed is not None:
            self._seed, self._episode = seed, 0
            return seed
        if self._seed is None:
            self._seed = int(np.random.SeedSequence().generate_state(1)[0])
        self._episode += 1
        return derive_seed("particle", self._seed, self._episode)

    def _by_agent(self, observations: Tensor) -> _PerAgent:
        return dict(zip(self.possible_agents, observations[0].numpy(), strict=True))
