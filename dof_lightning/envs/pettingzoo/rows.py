"""The rows of a batch that copies of an environment fill, and the agents still present in them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from dof_lightning.envs.base import StepInfo, StepResult, VectorEnv


class Ended(NamedTuple):
    """The way a step ended for one agent.

    Attributes:
        terminated: its part ended by the environment's rules.
        truncated: a time limit ended it.
        removed: it is no longer among the environment's agents.
    """

    terminated: bool
    truncated: bool
    removed: bool


@dataclass
class Rows:
    """Rows of a batch, one per episode, written in place.

    Attributes:
        observations: `[E, N, O]` float32, zero for padding and for agents that are gone.
        rewards: `[E, N]` float32 of the last step.
        alive: `[E, N]` bool.
        gone: `[E, N]` bool, agents whose part has ended; they stay gone and earn nothing, whatever the environment
            returns later.
        terminated, truncated: `[E]` bool, the way an episode ended; they stay set.
        legal: `[E, N, A]` bool, or None if all actions are always legal.
        state: `[E, S]` float32, or None.
    """

    observations: np.ndarray
    rewards: np.ndarray
    alive: np.ndarray
    gone: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    legal: np.ndarray | None
    state: np.ndarray | None

    @classmethod
    def empty(cls, n_episodes: int, n_agents: int, observation_dim: int, legal_dim: int, state_dim: int) -> Self:
        """Makes rows for episodes that have not started; a dimension of 0 leaves out `legal` or `state`."""
        e, n = n_episodes, n_agents
        return cls(
            observations=np.zeros((e, n, observation_dim), dtype=np.float32),
            rewards=np.zeros((e, n), dtype=np.float32),
            alive=np.ones((e, n), dtype=bool),
            gone=np.zeros((e, n), dtype=bool),
            terminated=np.zeros(e, dtype=bool),
            truncated=np.zeros(e, dtype=bool),
            legal=np.zeros((e, n, legal_dim), dtype=bool) if legal_dim else None,
            state=np.zeros((e, state_dim), dtype=np.float32) if state_dim else None,
        )

    @property
    def over(self) -> np.ndarray:
        """`[E]` bool, True for episodes that have ended."""
        over: np.ndarray = self.terminated | self.truncated
        return over

    def end_step(self, episode: int, acted: Mapping[int, Ended]) -> list[int]:
        """Records the agents that left and whether the episode has ended.

        An episode ends when no agent is left: it is truncated if a time limit ended any agent's part in its last step,
        else terminated. Agents that stayed to the end are present in its last row, because its value may count, except
        those that terminated in the step in which a time limit ended the others' parts.

        Args:
            episode: the episode's index.
            acted: the way the step ended for each agent that acted in it.

        Returns:
            the agents that are present in the new row.
        """
        staying = [i for i, ended in acted.items() if not any(ended)]
        self.gone[episode] = True
        self.gone[episode, staying] = False
        if not staying:
            cut = any(ended.truncated for ended in acted.values())
            self.truncated[episode], self.terminated[episode] = cut, not cut
            staying = [i for i, ended in acted.items() if not (cut and ended.terminated)]
        self.alive[episode] = False
        self.alive[episode, staying] = True
        return staying


class RowsEnv(VectorEnv):
    """Base of environments made of several copies of an external one, each of which fills its row of the batch."""

    _rows: Rows | None = None

    @property
    def legal(self) -> Tensor | None:
        """See `VectorEnv.legal`."""
        return None if self._rows is None or self._rows.legal is None else torch.from_numpy(self._rows.legal.copy())

    @property
    def state(self) -> Tensor | None:
        """See `VectorEnv.state`."""
        return None if self._rows is None or self._rows.state is None else torch.from_numpy(self._rows.state.copy())

    def _started(self) -> Rows:
        if self._rows is None:
            raise RuntimeError("no episode is running: call reset before step")
        return self._rows

    def _result(self, rows: Rows, won: np.ndarray | None = None) -> StepResult:
        """Copies the current rows to a step's result."""
        return StepResult(
            observations=torch.from_numpy(rows.observations.copy()),
            rewards=torch.from_numpy(rows.rewards.copy()),
            terminated=torch.from_numpy(rows.terminated.copy()),
            truncated=torch.from_numpy(rows.truncated.copy()),
            info=StepInfo(
                legal=self.legal,
                state=self.state,
                alive=torch.from_numpy(rows.alive.copy()),
                won=None if won is None else torch.from_numpy(won),
            ),
        )
