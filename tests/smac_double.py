"""A double of oxwhirl's `smac` and `smacv2`, written from the recorded dimensions: enough to play battles of numbers.

An ally loses health at a pace of its own, an enemy loses one point for each attack on it; nothing else happens.
"""

import importlib.machinery
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dof_lightning.envs.smac_scenarios import SCENARIOS, Scenario

_FIRST_ATTACK = 6  # after no-op, stop and four moves
ENEMY_HEALTH = 3


class StarCraft2Env:
    """One battle after another; only the first is a function of the seed, as in the packages."""

    open_games = 0

    def __init__(self, scenario: Scenario, seed: int, continuing_episode: bool, fade: float = 0.04) -> None:
        self.what, self.continuing_episode, self.fade = scenario, continuing_episode, fade
        self._random = np.random.default_rng(seed)
        type(self).open_games += 1

    def get_env_info(self) -> dict[str, int]:
        what = self.what
        return {
            "state_shape": what.state_dim,
            "obs_shape": what.observation_dim,
            "n_actions": what.n_actions,
            "n_agents": what.n_agents,
            "episode_limit": what.horizon,
        }

    def reset(self) -> tuple[list[np.ndarray], np.ndarray]:
        self.time = 0
        self.pace = self._random.uniform(0, 2 * self.fade, self.what.n_agents)
        self.health = self._random.uniform(0.5, 1.0, self.what.n_agents)
        self.enemies = np.full(self.what.n_actions - _FIRST_ATTACK, ENEMY_HEALTH)
        return self.get_obs(), self.get_state()

    def step(self, actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        for agent, action in enumerate(actions):
            assert self.get_avail_agent_actions(agent)[action] == 1, f"Agent {agent} cannot perform action {action}"
        hits = [action - _FIRST_ATTACK for action in actions if action >= _FIRST_ATTACK]
        self.enemies = np.maximum(self.enemies - np.bincount(hits, minlength=len(self.enemies)), 0)
        self.health = np.maximum(self.health - self.pace, 0.0)
        self.time += 1
        won, lost = not self.enemies.any(), not self.health.any()
        info: dict[str, Any] = {"battle_won": bool(won)}
        late = self.time >= self.what.horizon and not (won or lost)
        if late and self.continuing_episode:
            info["episode_limit"] = True
        return float(len(hits)), bool(won or lost or late), info

    def get_obs(self) -> list[np.ndarray]:
        numbers = [self.time / self.what.horizon, *self.enemies[:3] / ENEMY_HEALTH]
        return [
            self._fill(self.what.observation_dim, [h, *numbers]) if h else self._fill(self.what.observation_dim, [])
            for h in self.health
        ]

    def get_state(self) -> np.ndarray:
        return self._fill(self.what.state_dim, [*self.health, *self.enemies[:3]])

    def get_avail_agent_actions(self, agent: int) -> list[int]:
        if not self.health[agent]:
            return [1] + [0] * (self.what.n_actions - 1)
        return [0, 1, 1, 1, 1, 1, *(self.enemies > 0).astype(int).tolist()]

    def close(self) -> None:
        type(self).open_games -= 1

    @staticmethod
    def _fill(size: int, numbers: list[float]) -> np.ndarray:
        vector = np.zeros(size, dtype=np.float32)
        vector[: len(numbers)] = numbers
        return vector


class Draw:
    """A distribution of SMACv2: draws from a generator of its own, which nobody has seeded."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng()


class Inside(Draw):
    def __init__(self) -> None:
        super().__init__()
        self.reflect_distribution = Draw()


class StarCraftCapabilityEnvWrapper(StarCraft2Env):
    """As in SMACv2, health is drawn by distributions, and all agents' masks cannot be had together."""

    def __init__(self, *, capability_config: Mapping[str, Any], map_name: str, seed: int, **kwargs: Any) -> None:
        race, units = map_name.removeprefix("10gen_"), capability_config["n_units"]
        super().__init__(SCENARIOS[f"{race}_{units}_vs_{units}"], seed, kwargs["continuing_episode"])
        self.env_key_to_distribution_map = {"team_gen": Draw(), "start_positions": Inside()}

    def reset(self) -> tuple[list[np.ndarray], np.ndarray]:
        super().reset()
        teams, positions = self.env_key_to_distribution_map.values()
        for rng in (teams.rng, positions.rng, positions.reflect_distribution.rng):
            self.health = self.health * rng.uniform(0.8, 1.0, self.what.n_agents)
        return self.get_obs(), self.get_state()


def smac_of(**changes: Any) -> Any:
    """`smac`'s `StarCraft2Env`, with fields of its scenario or its fading changed."""
    fade = changes.pop("fade", 0.04)

    def make(map_name: str, seed: int, continuing_episode: bool) -> StarCraft2Env:
        what = Scenario(**{**vars(SCENARIOS[map_name]), **changes})
        return StarCraft2Env(what, seed, continuing_episode, fade)

    return make


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, **changes: Any) -> None:
    """Makes the double importable as both packages, and a folder StarCraft II's."""
    for name, content in {
        "smac": {},
        "smac.env": {"StarCraft2Env": smac_of(**changes)},
        "smacv2": {},
        "smacv2.env": {},
        "smacv2.env.starcraft2": {},
        "smacv2.env.starcraft2.wrapper": {"StarCraftCapabilityEnvWrapper": StarCraftCapabilityEnvWrapper},
    }.items():
        monkeypatch.setitem(sys.modules, name, _module(name, content))
    monkeypatch.setenv("SC2PATH", str(folder))


def install_smac3(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other project that is called `smac`."""
    monkeypatch.delitem(sys.modules, "smac.env", raising=False)
    monkeypatch.setitem(sys.modules, "smac", _module("smac", {}))


def _module(name: str, content: Mapping[str, Any]) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    vars(module).update(content)
    return module
