"""Behaviours of the motivating games: a joint draw from the mixture, and a scripted team for the landmarks."""

import copy
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from data_modules.behavior.base import Behavior
from data_modules.behavior.spread_team import APPROACH, KEPT_SPEED, SPEED_OF_FORCE, SpreadTeam, pick
from dof_lightning.envs.games import LANDMARK_GAME_VARIANT, GaussianGame, actions_of
from dof_lightning.errors import UserError
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.spec import EnvSpec

Assignment = Literal["fixed", "hungarian", "random"]

N_AGENTS = 3


class MixtureTeam(DecentralizedPolicy):
    """Two agents that draw their pair of coordinates together, from the game's distribution, as no agent can alone."""

    n_agents = 2

    def __init__(self, game: GaussianGame) -> None:
        super().__init__()
        self.game = game

    @property
    def acts_alone(self) -> bool:
        """False: one draw makes both coordinates."""
        return False

    def draw_noise(self, n_episodes: int, generator: torch.Generator) -> Tensor:
        """Pairs of the mixture, `[E, 2, 1]`."""
        return self.game.draw(n_episodes, generator).unsqueeze(-1)

    def act_on_noise(self, observations: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        """The actions that stand for the pair."""
        return actions_of(noise.squeeze(-1)).to(observations.dtype), carry

    def export(self, agent: int) -> Self:
        """Refuses: no agent draws alone.

        Raises:
            UserError: always.
        """
        raise UserError("the pairs of the mixture are drawn for all agents together, so there is nothing to export")


class Mixture(Behavior):
    """Draws from the mixture whose weights the environment declares."""

    name = "mixture"

    def identity(self, spec: EnvSpec) -> dict[str, Any]:
        """See `Behavior.identity`."""
        self._game(spec)
        return {"name": self.name, "policy": "joint draws of the environment's mixture"}

    def policies(self, spec: EnvSpec) -> list[DecentralizedPolicy]:
        """See `Behavior.policies`."""
        return [MixtureTeam(self._game(spec))]

    def _game(self, spec: EnvSpec) -> GaussianGame:
        if spec.recipe.get("game") != "gaussian":
            raise UserError(f"data.source.behavior: the mixture belongs to env=game_gaussian_..., not to {spec.name!r}")
        return GaussianGame(spec.recipe["weights"])


class LandmarkTeam(SpreadTeam):
    """Agents that drive straight to the landmark an assignment gives them, in `LandmarkGame`.

    The action is a force of at most length 1 that makes the speed `APPROACH` times the way left, plus Gaussian noise;
    its first direction therefore shows where an agent heads.

    Args:
        assignment: `fixed` (agent i takes landmark i), `hungarian` (smallest summed distance, computed by each agent
            from its observation) or `random` (one of the 6, drawn per episode; no observation contains it).
        exploration_noise: standard deviation of the noise on both dimensions of the force.
    """

    roles: Tensor

    def __init__(self, assignment: Assignment, exploration_noise: float) -> None:
        super().__init__(N_AGENTS, exploration_noise)
        self.assignment: Assignment = assignment
        self.register_buffer("roles", torch.arange(N_AGENTS), persistent=False)

    @property
    def acts_alone(self) -> bool:
        """False if one draw assigns all agents."""
        return self.assignment != "random"

    def initial_carry(self, n_episodes: int, device: torch.device) -> Any:
        """Each agent's landmark `[E, N]`, -1 before one is drawn; None if there is nothing to remember."""
        if self.assignment != "random":
            return None
        return {"landmark": torch.full((n_episodes, self.n_agents), -1, device=device)}

    def draw_noise(self, n_episodes: int, generator: torch.Generator) -> Tensor:
        """`[E, N, 3]`: standard normal noise of the force, and each agent's landmark, all different."""
        normal = torch.randn(n_episodes, self.n_agents, 2, generator=generator, device=generator.device)
        shuffled = torch.rand(n_episodes, N_AGENTS, generator=generator, device=generator.device).argsort(dim=1)
        return torch.cat([normal, shuffled[:, self.roles, None].to(normal.dtype)], dim=-1)

    def act_on_noise(self, observations: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        """The force towards the own landmark; see the class."""
        way, carry = self._way(observations, carry, noise)
        force = (APPROACH * way - KEPT_SPEED * observations[..., :2]) / SPEED_OF_FORCE
        force = force / force.norm(dim=-1, keepdim=True).clamp(min=1.0)
        return (force + self.exploration_noise * noise[..., :2]).clamp(-1, 1), carry

    def export(self, agent: int) -> Self:
        """Returns agent `agent` alone.

        Raises:
            UserError: the assignment is random: one draw assigns all agents.
        """
        if not self.acts_alone:
            raise UserError("a random assignment is drawn for all agents together, so there is nothing to export")
        alone = copy.deepcopy(self)
        alone.n_agents, alone.roles = 1, self.roles[agent : agent + 1].clone()
        return alone

    def _way(self, observations: Tensor, carry: Any, noise: Tensor) -> tuple[Tensor, Any]:
        if self.assignment == "hungarian":
            return self.way_to_landmark(observations), carry
        mine = self.roles.expand(observations.shape[:-1])
        if carry is not None:
            mine = torch.where(carry["landmark"] < 0, noise[..., 2].long(), carry["landmark"])
            carry = {"landmark": mine}
        return pick(self.landmarks(observations), mine), carry


@dataclass(frozen=True)
class LandmarkExpert(Behavior):
    """The team of `LandmarkTeam`, with its arguments.

    Raises:
        UserError: the assignment is unknown.
    """

    assignment: Assignment
    exploration_noise: float

    def __post_init__(self) -> None:
        if self.assignment not in get_args(Assignment):
            choices = ", ".join(get_args(Assignment))
            raise UserError(f"data.source.behavior.assignment={self.assignment} is unknown; choose one of {choices}")

    @property
    def name(self) -> str:  # type: ignore[override]
        """The assignment."""
        return self.assignment

    def identity(self, spec: EnvSpec) -> dict[str, Any]:
        """See `Behavior.identity`."""
        if spec.recipe.get("variant") != LANDMARK_GAME_VARIANT:
            raise UserError(f"data.source.behavior: the landmark team acts in env=game_landmark, not in {spec.name!r}")
        return {
            "name": self.name,
            "policy": "straight to the assigned landmark",
            "approach": APPROACH,
            "exploration_noise": self.exploration_noise,
        }

    def policies(self, spec: EnvSpec) -> list[DecentralizedPolicy]:
        """See `Behavior.policies`."""
        self.identity(spec)
        return [LandmarkTeam(self.assignment, self.exploration_noise)]
