"""Behaviours of MA-MuJoCo's datasets: snapshots of an online training, with noise."""

from dataclasses import dataclass
from typing import Any

from data_modules.behavior.actor_bank import GaussianBehavior
from data_modules.behavior.base import Behavior
from data_modules.behavior.snapshots import load_actors, read_story, snapshot_names, weights_sha256
from dof_lightning.errors import UserError
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.spec import EnvSpec


@dataclass(frozen=True)
class RobotSnapshot(Behavior):
    """One shipped snapshot with Gaussian noise on its actions, as OG-MARL's datasets were recorded.

    Args:
        quality: a snapshot's name, e.g. `medium`; an unknown name gives an error that lists them.
        exploration_noise: standard deviation of the noise, for actions in [-1, 1].
    """

    quality: str
    exploration_noise: float

    @property
    def name(self) -> str:  # type: ignore[override]
        """The quality."""
        return self.quality

    def identity(self, spec: EnvSpec) -> dict[str, Any]:
        """See `Behavior.identity`."""
        measured = self._measured(spec)
        return {
            "name": self.name,
            "policy": "MATD3",
            "updates": measured["updates"],
            "weights_sha256": weights_sha256(spec.name),
            "exploration_noise": self.exploration_noise,
        }

    def policies(self, spec: EnvSpec) -> list[DecentralizedPolicy]:
        """See `Behavior.policies`."""
        self._measured(spec)
        actors = load_actors(spec, self.quality)
        return [GaussianBehavior(actors, spec.n_agents, spec.action_dim, self.exploration_noise)]

    def _measured(self, spec: EnvSpec) -> dict[str, float]:
        names = snapshot_names(spec.name)
        if self.quality not in names:
            raise UserError(
                f"data.source.behavior.quality={self.quality!r}: {spec.name} has {', '.join(names)} to choose from"
            )
        measured: dict[str, float] = read_story(spec.name)["snapshots"][self.quality]
        return measured
