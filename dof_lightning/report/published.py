"""The seed's published numbers, and which of our worlds they were measured in.

`published_results.csv` holds the tables of Li et al. (DoF, ICLR 2025) for MPE, SMAC and SMACv2 as data: mean and
standard deviation over seeds. They are of other data than ours, whatever the world.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dof_lightning.config import compose as configuration
from dof_lightning.report.gathering import Group
from dof_lightning.spec import EnvSpec, fingerprint

SOURCE = "Li et al., DoF, ICLR 2025"
EITHER = ("madiff_c", "madiff_d")  # one row of the seed's tables, which do not say whose it is
BOTH = ("dof_policy", "dof_trajectory")  # one row again
_NAMES = {  # what the seed's tables call our algorithms
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
# The prey that the published numbers of Tag and World were measured against: sha256 of the files in ling-pan/OMAR.
_OMARS_PREY = {
    "mpe_tag": "b22b95f3397f41a21aa247810e385a8ecf85294f2e2ed8e523a954c633daf7a2",
    "mpe_world": "ed3170cfb9c3f6872305c9c795a7aed089fde7b5e5cc2bff5f7debfed37c2115",
}
_SPREAD = "mpe_spread"  # of OMAR's variant; there is no prey


@dataclass(frozen=True)
class Published:
    """A published number.

    Attributes:
        mean, std: over the seeds of the seed's tables.
        metric: `normalized score` or `episode return`.
        world: its suite and task.
        same_world: task variant and opponent are those of our runs; the data never are.
    """

    mean: float
    std: float
    metric: str
    world: str
    same_world: bool


def published(group: Group) -> Published | None:
    """What was published of a method on the dataset of the same name; None where nothing was.

    A variant of an algorithm has none: what was published is of its authors' settings. The seed's tables do not say
    whether MADIFF's agents act alone, so `madiff_c` and `madiff_d` have the same row.
    """
    if group.label != group.algorithm:
        return None
    suite, task = _world(group.environment)
    quality = group.dataset.removeprefix(group.environment).strip("_").replace("_", "-")
    row = _table().get((suite, task, quality, _NAMES.get(group.algorithm, "")))
    if row is None:
        return None
    same = group.records[0].environment_fingerprint in _fingerprints(group.environment)
    return Published(float(row["mean"]), float(row["std"]), row["metric"], f"{suite} {task}", same)


def _world(environment: str) -> tuple[str, str]:
    """Suite and task of the world that ours is named after: `smax_3m` after SMAC's 3m."""
    family, _, task = environment.partition("_")
    return {"mpe": "MPE", "smax": "SMAC", "smac": "SMAC", "smacv2": "SMACv2"}.get(family, family), task


@cache
def _table() -> dict[tuple[str, str, str, str], dict[str, str]]:
    with (Path(__file__).parent / "published_results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(row["suite"], row["task"], row["dataset"], row["algorithm"]): row for row in rows}


@cache
def _fingerprints(environment: str) -> frozenset[str]:
    """Of the worlds that the published numbers are from, as far as our runs can be in them."""
    if environment == _SPREAD:
        return frozenset({_preset(environment).fingerprint})
    if environment in _OMARS_PREY:
        recipe = dict(_preset(environment).recipe)
        return frozenset({fingerprint(recipe | {"opponent": {"kind": "omar", "sha256": _OMARS_PREY[environment]}})})
    return frozenset()  # SMAX is another game than SMAC, and the real one was never run here


@cache
def _preset(environment: str) -> EnvSpec:
    cfg = configuration.compose([f"experiment={environment}_random", f"env={environment}"])
    spec: EnvSpec = configuration.build(cfg.env).spec
    return spec
