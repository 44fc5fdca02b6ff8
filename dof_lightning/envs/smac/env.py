"""StarCraft II's SMAC and SMACv2 as vectorised environments: one game per episode."""

import weakref

import numpy as np
import torch
from torch import Tensor

from dof_lightning.envs.base import StepResult, check_discrete
from dof_lightning.envs.pettingzoo.rows import Rows, RowsEnv
from dof_lightning.envs.smac import game as smac_game
from dof_lightning.envs.smac.game import Game
from dof_lightning.envs.smac.scenarios import SCENARIOS
from dof_lightning.errors import UserError
from dof_lightning.spec import AgentSpec, EnvSpec

_NO_OP = 0  # the action of dead units, forbidden to all others


class SmacEnv(RowsEnv):
    """E games of oxwhirl's `smac` or `smacv2`, one process each, restarted for every episode with its seed.

    The spec is the recorded one of the published datasets, so training needs neither package nor game; at `reset` the
    installed package must have the same dimensions. All agents earn the team's reward, which the package scales to at
    most 20 per battle. An agent is alive while it may choose another action than no-op. The packages draw into a window
    only, so there are no pictures. This adapter has never run against the real packages or the game: tests use a double
    that was written from their documentation (docs/guide/smac.md).

    Args:
        scenario: a map of SMAC (`3m`) or a scenario of SMACv2 (`terran_5_vs_5`).

    Raises:
        UserError: there is no such scenario.
    """

    episodes_at_once = 8  # each game is a StarCraft II process

    def __init__(self, *, scenario: str) -> None:
        if scenario not in SCENARIOS:
            raise UserError(f"env.scenario={scenario} is unknown; choose one of {', '.join(SCENARIOS)}")
        self.scenario, self._what = scenario, SCENARIOS[scenario]
        self.spec = self._make_spec()
        self._games: list[Game] = []
        self._seeds: list[int] = []
        self._time = 0
        weakref.finalize(self, _close, self._games)

    @property
    def missing(self) -> str | None:
        """See `VectorEnv.missing`."""
        return smac_game.missing(self._what.version)

    def reset(self, seeds: Tensor) -> Tensor:
        """See `VectorEnv.reset`.

        Raises:
            UserError: package or game are missing or have other dimensions, or more games are requested than
                `episodes_at_once`.
        """
        self.check_available()
        if len(seeds) > self.episodes_at_once:
            raise UserError(
                f"env={self.spec.name} plays at most {self.episodes_at_once} games at once, got {len(seeds)}; "
                "ask for fewer episodes"
            )
        _close(self._games)
        spec = self.spec
        rows = Rows.empty(len(seeds), spec.n_agents, spec.observation_dim, spec.action_dim, spec.state_dim)
        self._rows = rows
        self._seeds, self._time = seeds.tolist(), 0
        for episode, seed in enumerate(self._seeds):
            game = smac_game.make_game(self.scenario, self._what, seed)
            self._games.append(game)
            with smac_game.starting(self.spec.name), smac_game.seeded_draws(seed, 0):
                game.reset()
            self._look(rows, episode)
        return torch.from_numpy(rows.observations.copy())

    def step(self, actions: Tensor) -> StepResult:
        """See `VectorEnv.step`; episodes that have ended keep their last state.

        Raises:
            ValueError: the shape is wrong, or an action is not legal.
            RuntimeError: there was no reset.
            UserError: StarCraft II stopped in mid-battle.
        """
        rows = self._started()
        self._check(actions, rows)
        rows.rewards[:] = 0.0
        won = np.zeros(len(rows.over), dtype=bool)
        chosen = actions.tolist()
        self._time += 1
        for episode in np.flatnonzero(~rows.over).tolist():
            won[episode] = self._step_game(rows, episode, chosen[episode])
        return self._result(rows, won)

    def _step_game(self, rows: Rows, episode: int, actions: list[int]) -> bool:
        """Takes one step of one battle; returns whether the battle was won."""
        with smac_game.seeded_draws(self._seeds[episode], self._time):
            reward, over, info = self._games[episode].step(actions)
        if "battle_won" not in info:  # the packages restart a game that has stopped answering, without a message
            raise UserError(f"env={self.spec.name}: StarCraft II stopped in mid-battle; type the same command again")
        rows.rewards[episode] = reward
        cut = bool(info.get("episode_limit", False))
        rows.terminated[episode], rows.truncated[episode] = over and not cut, over and cut
        self._look(rows, episode)
        return over and bool(info["battle_won"])

    def _look(self, rows: Rows, episode: int) -> None:
        """Writes the observations: a function of the battle, its seed and the time."""
        game = self._games[episode]
        assert rows.state is not None
        assert rows.legal is not None
        with smac_game.seeded_draws(self._seeds[episode], self._time):
            rows.observations[episode] = np.stack(game.get_obs())
            rows.state[episode] = game.get_state()
            # One agent at a time: SMACv2's wrapper cannot return all agents' masks together.
            masks = [game.get_avail_agent_actions(agent) for agent in range(self.spec.n_agents)]
        rows.legal[episode] = np.array(masks, dtype=bool)
        rows.alive[episode] = ~rows.legal[episode, :, _NO_OP]

    def _check(self, actions: Tensor, rows: Rows) -> None:
        check_discrete(actions, rows.alive.shape)
        assert rows.legal is not None
        choices = torch.from_numpy(rows.legal)
        inside = (actions >= 0) & (actions < self.spec.action_dim)
        allowed = inside & choices.gather(-1, actions.clamp(0, self.spec.action_dim - 1)[..., None]).squeeze(-1)
        wrong = torch.nonzero(~allowed & ~torch.from_numpy(rows.over)[:, None])
        if len(wrong):
            episode, agent = wrong[0].tolist()
            raise ValueError(f"actions: {int(actions[episode, agent])} is not legal for agent {agent} of row {episode}")

    def _make_spec(self) -> EnvSpec:
        what = self._what
        name = f"smac{'v2' if what.version == 2 else ''}_{self.scenario}"
        agent = {"observation_dim": what.observation_dim, "action_dim": what.n_actions}
        return EnvSpec(
            name=name,
            agents=tuple(AgentSpec(f"agent_{index}", **agent) for index in range(what.n_agents)),
            action_kind="discrete",
            horizon=what.horizon,
            state_dim=what.state_dim,
            recipe={
                "family": "smac",
                "version": what.version,
                "scenario": self.scenario,
                "agents": what.n_agents,
                **agent,
                "state_dim": what.state_dim,
                "reward": "of damage, kills and victory, at most 20",
                "horizon": what.horizon,
            },
        )


def _close(games: list[Game]) -> None:
    """Ends the games' processes."""
    while games:
        games.pop().close()
