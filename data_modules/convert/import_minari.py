"""Minari datasets whose observations and actions are dictionaries by agent (package minari, `[minari]` extra)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_modules.convert.base import (
    BLOCK_BYTES,
    EpisodeSource,
    Layout,
    as_truth,
    check_choices,
    check_finite,
    digest,
    pad,
    to_our_units,
)
from data_modules.storage.action_units import ActionUnits
from data_modules.storage.arrays import EpisodeRows, concatenate
from dof_lightning.errors import UserError
from dof_lightning.spec import ActionKind, AgentSpec, EnvSpec

INSTALL = "pip install -c constraints.txt -e '.[minari]'"


class MinariSource(EpisodeSource):
    """Episodes of a Minari dataset; agents are in the order of the environment, or else of the action space.

    All agents receive the one reward of a step.

    Args:
        path: the dataset's folder (the one that holds `data`), or `data` itself.
        environment: the environment of the data, whose agents have the same names; None accepts any.

    Raises:
        UserError: minari is not installed, or observations and actions are not dictionaries of vectors by agent.
    """

    def __init__(self, path: Path, environment: EnvSpec | None = None) -> None:
        self.location = path
        self._dataset = _load(path)
        self.n_episodes = int(self._dataset.total_episodes)
        observed, acted = self._dataset.observation_space, self._dataset.action_space
        names = _agents(path, observations=observed, actions=acted)
        if environment is not None:
            wanted = [agent.name for agent in environment.agents]
            if sorted(wanted) != sorted(names):
                raise UserError(f"{path} has agents {', '.join(names)}, env={environment.name} {', '.join(wanted)}")
            names = wanted
        self._observed, self._acted = ([space[name] for name in names] for space in (observed, acted))
        self._names = names
        self._discrete = _check_spaces(path, self._observed, self._acted)
        sizes = [int(np.prod(space.shape)) for space in self._observed]
        choices = [int(space.n) if self._discrete else int(np.prod(space.shape)) for space in self._acted]
        kind: ActionKind = "discrete" if self._discrete else "continuous"
        if not self._discrete:
            self.declared = self.units = _declared(self._acted, max(choices))
        longest = max(
            int(metadata["total_steps"])
            for metadata in self._dataset.storage.get_episode_metadata(range(self.n_episodes))
        )
        self.layout = Layout(tuple(map(AgentSpec, names, sizes, choices)), kind, longest, 0)

    def identity(self) -> dict[str, Any]:
        """See `EpisodeSource.identity`."""
        files = sorted(file for file in self.location.rglob("*") if file.is_file())
        return {"format": "minari", "files": digest(files, self.location)}

    def blocks(self, first: int) -> Iterator[EpisodeRows]:
        """See `EpisodeSource.blocks`."""
        held: list[EpisodeRows] = []
        size = 0
        for number, episode in enumerate(self._dataset.iterate_episodes(range(first, self.n_episodes)), start=first):
            held.append(self._convert(episode, number))
            size += sum(array.nbytes for array in held[-1].arrays().values())
            if size >= BLOCK_BYTES:
                yield concatenate(held)
                held, size = [], 0
        if held:
            yield concatenate(held)

    def _convert(self, episode: Any, number: int) -> EpisodeRows:
        """Converts one episode; Minari has one observation more than steps, but not every writer of its files does."""
        n_steps = len(episode.rewards)
        where = f"{self.location}, episode {number}"
        observed = [np.asarray(episode.observations[name], np.float32) for name in self._names]
        counts = {len(part) for part in observed}
        if n_steps < 1 or len(counts) != 1 or not counts <= {n_steps, n_steps + 1}:
            raise UserError(
                f"{where} has {n_steps} rewards and {', '.join(map(str, sorted(counts)))} observations of an agent; "
                "expected are as many, or one more; repair or leave out the episode"
            )
        unseen = counts == {n_steps}
        observed = [part.reshape(len(part), -1) for part in observed]
        observed = [np.concatenate([part, part[-1:]]) if unseen else part for part in observed]
        width = max(part.shape[1] for part in observed)
        observations = np.stack([pad(part, width) for part in observed], axis=1)
        rewards = np.asarray(episode.rewards, dtype=np.float32)
        check_finite(f"{where}: observations", observations, 0)
        check_finite(f"{where}: rewards", rewards, 0)
        return EpisodeRows(
            observations=observations,
            actions=self._actions(episode, n_steps, where),
            rewards=np.repeat(rewards[:, None], len(self._names), axis=1),
            terminated=as_truth(f"{where}: terminations", np.asarray(episode.terminations[-1:])),
            length=np.array([n_steps], dtype=np.int32),
            episode_id=np.array([number], dtype=np.int64),
            unseen_end=np.array([unseen]),
        )

    def _actions(self, episode: Any, n_steps: int, where: str) -> np.ndarray:
        """Actions as indices from 0, or in [-1, 1]."""
        taken = [np.asarray(episode.actions[name]) for name in self._names]
        for name, part in zip(self._names, taken, strict=True):
            if len(part) != n_steps:
                raise UserError(f"{where}: {len(part)} actions of {name} and {n_steps} rewards; expected are as many")
        if self._discrete:
            actions = np.stack(
                [part - int(space.start) for part, space in zip(taken, self._acted, strict=True)], axis=1
            )
            for agent, space in enumerate(self._acted):
                check_choices(f"{where}: actions of {self._names[agent]}", actions[:, agent], 0, int(space.n))
            return actions.astype(np.int64)
        width = max(agent.action_dim for agent in self.layout.agents)
        scaled = []
        for agent, (name, part) in enumerate(zip(self._names, taken, strict=True)):
            check_finite(f"{where}: actions of {name}", part, 0)
            units = self.units.of_agent(agent)
            scaled.append(pad(to_our_units(f"{where}: actions of {name}", part.reshape(n_steps, -1), 0, units), width))
        return np.stack(scaled, axis=1)


def _declared(spaces: list[Any], width: int) -> ActionUnits:
    """The units that the agents' boxes declare; padding counts as [-1, 1]."""
    low, high = (np.full((len(spaces), width), end) for end in (-1.0, 1.0))
    for i, space in enumerate(spaces):
        low[i, : space.low.size], high[i, : space.high.size] = space.low.ravel(), space.high.ravel()
    return ActionUnits.of(low, high)


def _load(path: Path) -> Any:
    try:
        from minari import MinariDataset
    except ImportError:
        raise UserError(f"Minari datasets are read with the package minari; install it: {INSTALL}") from None
    folder = path / "data" if (path / "data").is_dir() else path
    try:
        return MinariDataset(folder)
    except (ValueError, OSError, KeyError, AssertionError) as error:
        raise UserError(f"source={path} is not a Minari dataset ({' '.join(str(error).split())})") from None


def _agents(path: Path, observations: Any, actions: Any) -> list[str]:
    from gymnasium.spaces import Dict

    if not isinstance(observations, Dict) or not isinstance(actions, Dict) or set(observations) != set(actions):
        raise UserError(f"{path}: no multi-agent dataset: observations and actions must be dictionaries by agent")
    return list(actions)


def _check_spaces(path: Path, observed: list[Any], acted: list[Any]) -> bool:
    """Whether actions are discrete."""
    from gymnasium.spaces import Box, Discrete

    discrete = all(isinstance(space, Discrete) for space in acted)
    bounded = all(isinstance(space, Box) and np.isfinite([space.low, space.high]).all() for space in acted)
    if bounded and not all(space.shape != (0,) and (space.low < space.high).all() for space in acted):
        raise UserError(f"{path}: a dimension of an agent's action Box has equal bounds; leave the dimension out")
    if not all(isinstance(space, Box) for space in observed) or not (discrete or bounded):
        raise UserError(f"{path}: agents must see Box spaces and act in bounded Box or in Discrete spaces")
    return discrete
