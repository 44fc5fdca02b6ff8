"""SMAC's and SMACv2's scenarios by name, with the dimensions that their published datasets record."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Scenario:
    """One battle of StarCraft II.

    Attributes:
        version: 1 for SMAC (Samvelyan et al., 2019), 2 for SMACv2 (Ellis et al., 2023).
        n_agents: N, allied units.
        n_actions: A: no-op (dead units only), stop, four moves, one attack per enemy.
        observation_dim: O of every agent.
        state_dim: S.
        horizon: number of steps after which the battle is truncated.
        race: race of both teams, for SMACv2's drawn teams; None for SMAC's fixed ones.
    """

    version: int
    n_agents: int
    n_actions: int
    observation_dim: int
    state_dim: int
    horizon: int
    race: str | None = None


# Dimensions: the datasets of OG-MARL (SMAC, SMACv2) and, for 2c_vs_64zg, of OMIGA, whose environment has larger
# observations than the package by default. SMACv2's states follow from its source (5 v 5: 120; 10 v 10: 290).
SCENARIOS = {
    "3m": Scenario(1, 3, 9, 30, 48, 60),
    "8m": Scenario(1, 8, 14, 80, 168, 120),
    "5m_vs_6m": Scenario(1, 5, 12, 55, 98, 70),
    "2s3z": Scenario(1, 5, 11, 80, 120, 120),
    "3s5z_vs_3s6z": Scenario(1, 8, 15, 136, 230, 170),
    "2c_vs_64zg": Scenario(1, 2, 70, 478, 1350, 400),
    "terran_5_vs_5": Scenario(2, 5, 11, 82, 120, 200, race="terran"),
    "zerg_5_vs_5": Scenario(2, 5, 11, 82, 120, 200, race="zerg"),
    "terran_10_vs_10": Scenario(2, 10, 16, 162, 290, 200, race="terran"),
}

_TEAMS = {
    "terran": {"unit_types": ["marine", "marauder", "medivac"], "exception_unit_types": ["medivac"]},
    "zerg": {"unit_types": ["zergling", "hydralisk", "baneling"], "exception_unit_types": ["baneling"]},
}


def capabilities(scenario: Scenario) -> dict[str, Any]:
    """The `capability_config` of SMACv2's paper: drawn teams of three unit types, drawn start positions.

    Both teams have the same types; the third type is rare and never forms a whole team; half of the battles begin
    surrounded, the others reflected.
    """
    assert scenario.race is not None
    enemies = scenario.n_agents
    return {
        "n_units": scenario.n_agents,
        "n_enemies": enemies,
        "team_gen": {
            "dist_type": "weighted_teams",
            **_TEAMS[scenario.race],
            "weights": [0.45, 0.45, 0.1],
            "observe": True,
        },
        "start_positions": {
            "dist_type": "surrounded_and_reflect",
            "p": 0.5,
            "n_enemies": enemies,
            "map_x": 32,
            "map_y": 32,
        },
    }
