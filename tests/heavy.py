"""Which options of `conf/` are tested on every change, and which only with `pytest -m slow`."""

from collections.abc import Iterable

import pytest
from _pytest.mark import ParameterSet

# Every map of a family is the same code; each costs seconds of compilation. One map of it stays on every change.
FAMILIES = {"smax": "smax_3m", "smacv2": None}


def is_heavy(option: str) -> bool:
    """Whether an option of env, data or experiment belongs to a family that another option stands for."""
    family = option.partition("_")[0]
    return family in FAMILIES and option not in (FAMILIES[family], f"{FAMILIES[family]}_good")


def marked(cases: Iterable[tuple[str, ...]]) -> list[ParameterSet]:
    """Test cases whose first value is an option, the heavy ones marked slow."""
    return [pytest.param(*case, marks=[pytest.mark.slow] if is_heavy(case[0]) else []) for case in cases]
