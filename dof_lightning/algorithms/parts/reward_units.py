"""The units in which rewards and returns are learned, and notes for the user if a dataset defines none."""

import numpy as np

from dof_lightning.normalization import spread_or_one
from dof_lightning.spec import DatasetSpec


def scale_of_rewards(wanted: float | None, spec: DatasetSpec) -> float:
    """The factor on the rewards that critics see.

    It is the requested factor, or 1 / std of the dataset's episode returns; 1 if all episodes have the same return.
    """
    statistics = spec.statistics
    return wanted if wanted is not None else 1.0 / spread_or_one(statistics.return_std, statistics.return_mean)


def scale_of_returns(wanted: float | None, spec: DatasetSpec) -> float:
    """The divisor of returns: the requested one, or the dataset's largest |R_0|; 1 if that is 0."""
    return wanted if wanted is not None else spread_or_one(_largest_return(spec))


def remarks_on_rewards(wanted: float | None, spec: DatasetSpec) -> list[str]:
    """A line for the user if `scale_of_rewards` finds no spread; same arguments."""
    statistics = spec.statistics
    if wanted is not None or spread_or_one(statistics.return_std, statistics.return_mean) == statistics.return_std:
        return []
    return [
        f"all episodes of {spec.name} return {statistics.return_mean:g}: rewards keep their own unit; "
        "algorithm.reward_scale=<factor> sets another"
    ]


def remarks_on_returns(wanted: float | None, spec: DatasetSpec) -> list[str]:
    """A line for the user if `scale_of_returns` finds no size; same arguments."""
    if wanted is not None or spread_or_one(_largest_return(spec)) == _largest_return(spec):
        return []
    return [
        f"all episodes of {spec.name} return 0: returns keep their own unit, and asking for one asks for nothing; "
        "algorithm.returns_scale=<unit> sets another"
    ]


def _largest_return(spec: DatasetSpec) -> float:
    return float(np.abs(spec.statistics.discounted_return_knots).max())
