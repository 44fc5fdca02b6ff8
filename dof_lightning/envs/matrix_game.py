"""One-shot matrix games: every agent chooses once, and the team earns an entry of a payoff table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dof_lightning.envs.base import StepInfo, StepResult, VectorEnv, check_discrete
from dof_lightning.errors import UserError
from dof_lightning.spec import AgentSpec, EnvSpec, ReferenceScores


class MatrixGame(VectorEnv):
    """N agents choose at once, all of them receive the payoff of the joint choice, and the game ends.

    There is nothing to observe: every observation is one zero. Scores are normalised by the table: 0 is its mean, which
    uniformly random agents earn, 100 its largest entry.

    Args:
        name: a name for people and folders.
        payoff: nested lists, N deep; entry [u_1][u_2].. is the team's reward.

    Raises:
        UserError: the payoff is not a table of finite numbers with at least two agents, or all its entries are equal.
    """

    has_random_start = False

    def __init__(self, name: str, payoff: Sequence[Any]) -> None:
        self.payoff = _table(payoff)
        agents = tuple(AgentSpec(f"agent_{i}", 1, choices) for i, choices in enumerate(self.payoff.shape))
        recipe = {"family": "matrix_game", "payoff": self.payoff.tolist(), "observation": "one zero"}
        reference = ReferenceScores(
            random=float(self.payoff.mean()), expert=float(self.payoff.max()), source="mean and maximum of the payoffs"
        )
        self.spec = EnvSpec(name, agents, "discrete", 1, state_dim=0, recipe=recipe, reference=reference)
        self._n_episodes = 0

    def reset(self, seeds: Tensor) -> Tensor:
        """See `VectorEnv.reset`; the seeds have no effect."""
        self._n_episodes = len(seeds)
        return self._observations()

    def step(self, actions: Tensor) -> StepResult:
        """See `VectorEnv.step`.

        Raises:
            ValueError: the actions are not integers `[E, N]`, or a choice is not in the table.
        """
        check_discrete(actions, (self._n_episodes, self.spec.n_agents))
        if bool(((actions < 0) | (actions >= torch.tensor(self.payoff.shape))).any()):
            raise ValueError(f"actions must choose within a table of shape {list(self.payoff.shape)}")
        rewards = self.payoff[actions.unbind(1)].to(torch.float32)[:, None].repeat(1, self.spec.n_agents)
        over = torch.ones(self._n_episodes, dtype=torch.bool)
        return StepResult(self._observations(), rewards, over, torch.zeros_like(over), StepInfo())

    def _observations(self) -> Tensor:
        return torch.zeros(self._n_episodes, self.spec.n_agents, 1)


def _table(payoff: Sequence[Any]) -> Tensor:
    try:
        table = np.asarray(list(payoff), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"env.payoff={payoff} must be a table of numbers: rows of equal length") from error
    if table.ndim < 2 or not np.isfinite(table).all():
        raise UserError(f"env.payoff={payoff} must be nested lists of finite numbers, a level per agent, at least two")
    if np.ptp(table) == 0:
        raise UserError(f"env.payoff={payoff} is the same for all choices: there is nothing to learn")
    return torch.from_numpy(table)
