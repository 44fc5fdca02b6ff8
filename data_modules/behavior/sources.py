"""Behaviours that need nothing but an environment, and those that shipped snapshots act out."""

from dataclasses import dataclass
from typing import Any, Literal

from data_modules.behavior.actor_bank import GaussianBehavior, UniformBehavior
from data_modules.behavior.base import Behavior
from data_modules.behavior.snapshots import load_actors, snapshot_names, weights_sha256
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
    """Snapshots of the online training that are shipped for an environment, with the noise they trained with.

    * `expert`, `medium`: one snapshot.
    * `medium_replay`: the snapshots on the way to medium in equal shares, as a replay buffer would hold them.

    Args:
        quality: which, see above.
    """

    quality: Literal["expert", "medium", "medium_replay"]

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
            "exploration_noise": EXPLORATION_NOISE,
        }

    def policies(self, spec: EnvSpec) -> list[DecentralizedPolicy]:
        """See `Behavior.policies`."""
        banks = [load_actors(spec, snapshot) for snapshot in self._snapshots(spec)]
        return [GaussianBehavior(bank, spec.n_agents, spec.action_dim, EXPLORATION_NOISE) for bank in banks]

    def _snapshots(self, spec: EnvSpec) -> list[str]:
        names = snapshot_names(spec.name)
        return [name for name in names if name != "expert"] if self.quality == "medium_replay" else [self.quality]
