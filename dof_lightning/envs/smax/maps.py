"""The maps of SMAX that have an option in `conf/env`, and the sizes that follow from them."""

from dataclasses import dataclass

HORIZON = 100  # steps of a battle, SMAX's own limit

_MOVES = 5  # four directions and stop
_UNIT_TYPES = 6
_OWN_FEATURES = 4 + _UNIT_TYPES  # health, position 2, cooldown, type
_UNIT_FEATURES = 7 + _UNIT_TYPES  # the same for a unit in sight, and its last movement 2 and target
_STATE_FEATURES = _OWN_FEATURES + 2  # for every unit: its team, and whether it is alive


@dataclass(frozen=True)
class Battle:
    """The units of a map.

    Attributes:
        allies: N, the learned agents.
        enemies: number of units of SMAX's built-in heuristic.
        random_units: whether unit types and starting places are drawn anew in every episode, as in SMACv2.
    """

    allies: int
    enemies: int
    random_units: bool = False

    @property
    def observation_dim(self) -> int:
        """O: own features, then those of every other unit, zero if it is out of sight or dead."""
        return _OWN_FEATURES + _UNIT_FEATURES * (self.allies + self.enemies - 1)

    @property
    def n_choices(self) -> int:
        """A: up, right, down, left, stop, and shooting at each enemy."""
        return _MOVES + self.enemies

    @property
    def state_dim(self) -> int:
        """S, the size of the global state."""
        return _STATE_FEATURES * (self.allies + self.enemies)


BATTLES = {
    "3m": Battle(3, 3),
    "8m": Battle(8, 8),
    "2s3z": Battle(5, 5),
    "3s5z": Battle(8, 8),
    "5m_vs_6m": Battle(5, 6),
    "10m_vs_11m": Battle(10, 11),
    "3s5z_vs_3s6z": Battle(8, 9),
    "3s_vs_5z": Battle(3, 5),
    "6h_vs_8z": Battle(6, 8),
    "smacv2_5_units": Battle(5, 5, random_units=True),
    "smacv2_10_units": Battle(10, 10, random_units=True),
}
