"""Behaviours that need nothing but an environment, and those that act by shipped snapshots."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from data_modules.behavior.actor_bank import GaussianBehavior, UniformBehavior, team_of
from data_modules.behavior.base import Behavior
from data_modules.behavior.snapshots import experts_of, load_actors, snapshot_names, weights_sha256
from dof_lightning.errors import UserError
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.spec import EnvSpec

EXPLORATION_NOISE = 0.1

_UNIFORM = {"continuous": "uniform in [-1, 1]", "discrete": "uniform among the legal choices"}


class Random(Behavior):
    """Uniform actions, in any environment."""

    name = "random"

    def identity(self, spec: EnvSpec) -> dict[str, Any]:
        """See `Behavior.identity`."""
        return {"name": self.name, "policy": _UNIFORM[spec.action_kind]}

    def policies(self, spec: EnvSpec) -> list[DecentralizedPolicy]:
        """See `Behavior.policies`."""
        return [UniformBehavior(spec)]


@dataclass(frozen=True)
class Snapshots(Behavior):
    """Shipped snapshots of the online training in an environment.

    * `expert`, `medium`: one snapshot.
    * `medium_replay`: the snapshots on the way to medium in equal shares, as a replay buffer would hold them.

    Args:
        quality: which snapshots act, see above.
        exploration_noise: standard deviation of the noise on the actions, one number for all agents or one per agent;
            the default is the noise that they were trained with.
    """

    quality: Literal["expert", "medium", "medium_replay"]
    exploration_noise: float | Sequence[float] = EXPLORATION_NOISE

    @property
    def name(self) -> str:  # type: ignore[override]
        """The quality."""
        return self.quality

    def identity(self, spec: EnvSpec) -> dict[str, Any]:
        """See `Behavior.identity`."""
        return {
            "name": self.name,
            "policy": "MATD3",
            "snapshots": self._snapshots(spec),
            "weights_sha256": weights_sha256(spec.name),
            "exploration_noise": self._noise(spec),
        }

    def policies(self, spec: EnvSpec) -> list[DecentralizedPolicy]:
        """See `Behavior.policies`."""
        noise = self._noise(spec)
        banks = [load_actors(spec, snapshot) for snapshot in self._snapshots(spec)]
        return [GaussianBehavior(bank, spec.n_agents, spec.action_dim, noise) for bank in banks]

    def _noise(self, spec: EnvSpec) -> float | list[float]:
        """The noise as given, or a list if it differs between agents.

        Raises:
            UserError: a value is negative, or the number of values is not the number of agents.
        """
        noise = self.exploration_noise
        each = list(noise) if isinstance(noise, Sequence) else [noise] * spec.n_agents
        if len(each) != spec.n_agents or min(each) < 0:
            raise UserError(
                f"data.source.behavior.exploration_noise={noise} must be a number, at least 0, or one per agent of the "
                f"{spec.n_agents} agents"
            )
        return each if isinstance(noise, Sequence) else noise

    def _snapshots(self, spec: EnvSpec) -> list[str]:
        names = snapshot_names(spec.name)
        wanted: set[str] = {*names} - {"expert"} if self.quality == "medium_replay" else {self.quality}
        chosen = [name for name in names if name in wanted]
        if not chosen:
            raise UserError(
                f"data.source.behavior.quality={self.quality}: {spec.name} has no such snapshot; choose one of "
                f"{', '.join(names)}"
            )
        return chosen


@dataclass(frozen=True)
class Experts(Behavior):
    """Teams trained alike from different seeds, each with its own habit of which agent takes which landmark.

    All are about as good. They act with the noise they trained with, and each has an equal share of the episodes.

    Args:
        habit: the unit that an expert is chosen for. `team`: all agents of an episode follow the same one. `agent`:
            each agent of an episode follows an expert of its own, all combinations in equal shares, so that the joint
            distribution is the product of the agents' marginals in the data of `team`.
    """

    habit: Literal["team", "agent"] = "team"

    name = "experts"  # for both habits, so that both play the same episodes

    def identity(self, spec: EnvSpec) -> dict[str, Any]:
        """See `Behavior.identity`."""
        shipped = experts_of(spec.name)
        return {
            "name": self.name,
            "policy": "MATD3",
            "habit": self.habit,
            "snapshots": snapshot_names(shipped),
            "weights_sha256": weights_sha256(shipped),
            "exploration_noise": EXPLORATION_NOISE,
        }

    def policies(self, spec: EnvSpec) -> list[DecentralizedPolicy]:
        """See `Behavior.policies`: one per expert, or one per combination of experts."""
        shipped = experts_of(spec.name)
        experts = [load_actors(spec, name, shipped) for name in snapshot_names(shipped)]
        if self.habit == "agent":
            experts = [team_of(followed) for followed in product(experts, repeat=spec.n_agents)]
        return [GaussianBehavior(bank, spec.n_agents, spec.action_dim, EXPLORATION_NOISE) for bank in experts]
