"""Values for one algorithm on one dataset: the sections of `conf/hyperparams/*.yaml` that match both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from dof_lightning.config.identity import leaves


@dataclass(frozen=True)
class Section:
    """Values that several algorithms share on several datasets.

    Attributes:
        file: where it stands.
        line: the one it begins in, from 1.
        algorithms: options of group algorithm.
        datasets: patterns of options of group data, such as `mpe_*`.
        values: nested keys of the configuration.
    """

    file: Path
    line: int
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
    return tuple(section for path in sorted(folder.glob("*.yaml")) for section in _sections_of(path))


def _sections_of(path: Path) -> list[Section]:
    loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
    written = loader.get_single_node()
    lines = [node.start_mark.line + 1 for node in written.value]
    return [
        Section(path, line, tuple(node["algorithms"]), tuple(node["datasets"]), node["values"])
        for line, node in zip(lines, loader.construct_document(written), strict=True)
    ]


def tuned_values(matching: Sequence[Section]) -> dict[str, Any] | None:
    """What sections say together, later ones over earlier ones; None where there are none."""
    merged: dict[str, Any] = {}
    for section in matching:
        merged = _merge(merged, section.values)
    return merged if matching else None


def in_effect(matching: Sequence[Section], config: Mapping[str, Any]) -> list[tuple[Section, dict[str, Any]]]:
    """What of each section is as it says in a run: neither a later section nor what was typed says otherwise.

    Args:
        matching: the sections for an algorithm on a dataset, later ones over earlier ones.
        config: the resolved configuration.

    Returns:
        the sections of which something is left, with that by dotted key.
    """
    last = {key: section for section in matching for key, _ in leaves(section.values)}
    configured = dict(leaves(config))
    told = [
        (section, {k: v for k, v in leaves(section.values) if last[k] is section and configured.get(k) == v})
        for section in matching
    ]
    return [(section, values) for section, values in told if values]


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
