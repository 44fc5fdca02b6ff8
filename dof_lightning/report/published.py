"""The published numbers of Li et al. (2025), and the worlds that they were measured in.

`published_results.csv` holds the tables of Li et al. (DoF, ICLR 2025) for MPE, SMAC and SMACv2 as data: mean and
standard deviation over seeds. They come from other data than ours in every world.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dof_lightning.report.gathering import Group

SOURCE = "Li et al., DoF, ICLR 2025"
EITHER = ("madiff_c", "madiff_d")  # one row of the paper's tables, which do not specify the variant
OURS = ("dof_policy", "dof_trajectory")  # also one row
_NAMES = {  # the names of our algorithms in the paper's tables
    "dof_policy": "DoF",
    "dof_trajectory": "DoF",
    "madiff_d": "MADIFF",
    "madiff_c": "MADIFF",
    "td3_bc": "MA-TD3+BC",
    "macql": "MACQL",
    "macql_discrete": "MACQL",
    "maicq": "MAICQ",
    "maicq_discrete": "MAICQ",
    "omar": "OMAR",
    "qmix": "QMIX",
    "mabcq": "MABCQ",
    "madt": "MADT",
}
# Fingerprints of the worlds of the published numbers, as far as our runs can be in them; a test recomputes them.
# SMAX is another game than SMAC, and SMAC itself was never run here.
_FINGERPRINTS = {
    "mpe_spread": "b395f50ac2c69305",  # OMAR's variant; there is no prey
    "mpe_tag": "6a75335d99599ec5",  # with the prey in ling-pan/OMAR, not ours
    "mpe_world": "37a0617e68f52855",  # the same
}


@dataclass(frozen=True)
class Published:
    """A published number.

    Attributes:
        mean, std: over the random seeds, as in the paper's tables.
        metric: `normalized score` or `episode return`.
        world: its suite and task.
        same_world: whether task variant and opponent are those of our runs; the data never are.
    """

    mean: float
    std: float
    metric: str
    world: str
    same_world: bool


def published(group: Group) -> Published | None:
    """The number published for a method on the dataset of the same name; None if there is none.

    A variant of an algorithm has none: published numbers are for the authors' settings. The paper's tables do not
    specify whether MADIFF's agents act alone, so `madiff_c` and `madiff_d` have the same row.
    """
    if group.label != group.algorithm:
        return None
    suite, task = _world(group.environment)
    quality = group.dataset.removeprefix(group.environment).strip("_").replace("_", "-")
    row = _table().get((suite, task, quality, _NAMES.get(group.algorithm, "")))
    if row is None:
        return None
    return Published(
        mean=float(row["mean"]),
        std=float(row["std"]),
        metric=row["metric"],
        world=f"{suite} {task}",
        same_world=group.records[0].environment_fingerprint == _FINGERPRINTS.get(group.environment),
    )


def _world(environment: str) -> tuple[str, str]:
    """Returns suite and task of the world that ours is named after: `smax_3m` after SMAC's 3m."""
    family, _, task = environment.partition("_")
    return {"mpe": "MPE", "smax": "SMAC", "smac": "SMAC", "smacv2": "SMACv2"}.get(family, family), task


@cache
def _table() -> dict[tuple[str, str, str, str], dict[str, str]]:
    with (Path(__file__).parent / "published_results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {(row["suite"], row["task"], row["dataset"], row["algorithm"]): row for row in rows}
