"""Values for one algorithm on one dataset: the sections of `conf/hyperparams/*.yaml` that match both."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Section:
    """Values that several algorithms share on several datasets.

    Attributes:
        file: where it stands.
        algorithms: options of group algorithm.
        datasets: patterns of options of group data, such as `mpe_*`.
        values: nested keys of the configuration.
    """

    file: Path
    algorithms: tuple[str, ...]
    datasets: tuple[str, ...]
    values: dict[str, Any]

    def matches(self, algorithm: str, data: str) -> bool:
        """Whether the section is for this algorithm on this dataset."""
        return algorithm in self.algorithms and any(fnmatchcase(data, pattern) for pattern in self.datasets)


@cache
def sections(folder: Path) -> tuple[Section, ...]:
    """All sections, files in alphabetical order and each from top to bottom.

    Args:
        folder: `conf/hyperparams`.
    """
    return tuple(
        Section(path, tuple(node["algorithms"]), tuple(node["datasets"]), node["values"])
        for path in sorted(folder.glob("*.yaml"))
        for node in yaml.safe_load(path.read_text())
    )


def tuned_values(folder: Path, algorithm: str, data: str) -> dict[str, Any] | None:
    """What the matching sections say, later ones over earlier ones; None where none matches.

    Args:
        folder: `conf/hyperparams`.
        algorithm: option of group algorithm.
        data: option of group data.
    """
    matching = [section.values for section in sections(folder) if section.matches(algorithm, data)]
    merged: dict[str, Any] = {}
    for values in matching:
        merged = _merge(merged, values)
    return merged if matching else None


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
