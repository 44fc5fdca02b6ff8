"""Behaviours of SMAX's datasets: snapshots of one online training per map, with their win rates."""

from dataclasses import dataclass
from typing import Any

from data_modules.behavior.base import Behavior
from data_modules.behavior.choosing import ChoosingActors, ChoosingBehavior
from data_modules.behavior.snapshots import Snapshot, load_weights, read_story, weights_sha256
from dof_lightning.errors import UserError
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.spec import EnvSpec


@dataclass(frozen=True)
class BattleSnapshot(Snapshot):
    """The actors at one moment of the online training; `updates` counts rounds of battles.

    Attributes:
        win_rate: share of battles won with actions drawn from the actors' distribution; returns are measured in the
            same way.
    """

    win_rate: float = 0.0


@dataclass(frozen=True)
class BattleSnapshots(Behavior):
    """Actors of one shipped snapshot of a map; they draw from their own distribution, as they did in training.

    Args:
        quality: `good`, `medium` or `poor`; `trained` on maps on which no training reached what `good` promises.
    """

    quality: str

    @property
    def name(self) -> str:  # type: ignore[override]
        """The quality."""
        return self.quality

    def identity(self, spec: EnvSpec) -> dict[str, Any]:
        """See `Behavior.identity`."""
        known = read_story(spec.name)["snapshots"]
        if self.quality not in known:
            raise UserError(f"{spec.name} has no {self.quality!r} behaviour; choose one of {', '.join(known)}")
        return {"name": self.name, "policy": "MAPPO", "weights_sha256": weights_sha256(spec.name)}

    def policies(self, spec: EnvSpec) -> list[DecentralizedPolicy]:
        """See `Behavior.policies`."""
        self.identity(spec)
        actors = ChoosingActors(spec.n_agents, spec.observation_dim, spec.action_dim)
        actors.load_state_dict(load_weights(spec.name, self.quality))
        return [ChoosingBehavior(actors.eval().requires_grad_(False), spec)]
