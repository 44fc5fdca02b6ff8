"""A PettingZoo environment whose every number can be worked out by hand: action masks, and agents that leave early."""

from functools import cache
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Space
from pettingzoo import ParallelEnv

CHOICES = {"scout": 2, "guard": 4}
LAST_STEP = 4


class Outpost(ParallelEnv[str, Any, Any]):
    """A scout that leaves after 1 + seed % 3 steps and a guard that stays until a time limit.

    An agent sees [[seed, step], [its last action, 7]], earns its action's number, and may not do the same thing twice.

    Args:
        masks_in: where the masks are told: `observation` or `info`.
        start: number of the first choice.
        guard_falls: the guard terminates at the last step instead of being cut by the time limit.
        high: actions are a Box from -1 to `high` instead of choices; there are no masks then.
    """

    metadata = {"name": "outpost"}

    def __init__(
        self, masks_in: str = "observation", start: int = 0, guard_falls: bool = False, high: float | None = None
    ) -> None:
        self.possible_agents = list(CHOICES)
        self.agents: list[str] = []
        self._masks_in, self._start, self._guard_falls, self._high = masks_in, start, guard_falls, high

    @cache  # noqa: B019
    def observation_space(self, agent: str) -> Space:
        seen = Box(-np.inf, np.inf, (2, 2))
        mask = Box(0, 1, (CHOICES[agent],), np.int8)
        return Dict({"observation": seen, "action_mask": mask}) if self._masks_in == "observation" else seen

    @cache  # noqa: B019
    def action_space(self, agent: str) -> Space:
        if self._high is not None:
            return Box(-1.0, self._high, (CHOICES[agent],))
        return Discrete(CHOICES[agent], start=self._start)

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        self._seed, self._step, self.agents = seed or 0, 0, list(self.possible_agents)
        self._last = dict.fromkeys(self.agents, 0)
        return self._told()

    def step(self, actions: dict) -> tuple[dict, dict, dict, dict, dict]:
        assert list(actions) == self.agents
        self._step += 1
        self._last = {agent: 0 if self._high is not None else action - self._start for agent, action in actions.items()}
        observations, infos = self._told()
        at_limit = self._step == LAST_STEP
        terminated = {
            agent: (agent == "scout" and self._step == 1 + self._seed % 3) or (at_limit and self._guard_falls)
            for agent in self.agents
        }
        truncated = {agent: at_limit and not terminated[agent] for agent in self.agents}
        rewards = {agent: float(self._last[agent]) for agent in self.agents}
        self.agents = [agent for agent in self.agents if not (terminated[agent] or truncated[agent])]
        return observations, rewards, terminated, truncated, infos

    def _told(self) -> tuple[dict, dict]:
        observations: dict[str, Any] = {}
        infos: dict[str, dict] = {}
        for agent in self.agents:
            seen = np.array([[self._seed, self._step], [self._last[agent], 7]], dtype=np.float32)
            mask = (np.arange(CHOICES[agent]) != self._last[agent]).astype(np.int8)
            in_observation = self._masks_in == "observation"
            observations[agent] = {"observation": seen, "action_mask": mask} if in_observation else seen
            infos[agent] = {"action_mask": mask} if self._masks_in == "info" else {}
        return observations, infos


def parallel_env(**arguments: Any) -> Outpost:
    return Outpost(**arguments)
