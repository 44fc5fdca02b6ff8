"""Which options of `conf/` are tested on every change, and which only with `pytest -m slow`."""

from collections.abc import Iterable

import pytest
from _pytest.mark import ParameterSet

# Options of a family are the same code with other sizes or other behaviours, and each costs seconds (compilation,
# robots, collecting). These stand for their families on every change.
REPRESENTATIVES = {
    "mpe": ("mpe_spread", "mpe_tag", "mpe_world", "mpe_tag_random", "mpe_world_random"),
    "smax": ("smax_3m", "smax_3m_good"),
    "smac": ("smac_3m", "smac_3m_good"),
    "smacv2": (),
    "mamujoco": ("mamujoco_halfcheetah_2x3", "mamujoco_halfcheetah_2x3_good"),
}


def is_heavy(option: str) -> bool:
    """Whether an option of env, data or experiment belongs to a family that another option stands for."""
    family = option.partition("_")[0]
    spared = option.startswith("mpe_spread")  # the main job: all of it
    return family in REPRESENTATIVES and option not in REPRESENTATIVES[family] and not spared


def marked(cases: Iterable[tuple[str, ...]]) -> list[ParameterSet]:
    """Test cases whose first value is an option, the heavy ones marked slow."""
    return [pytest.param(*case, marks=[pytest.mark.slow] if is_heavy(case[0]) else []) for case in cases]
