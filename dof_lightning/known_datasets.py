"""The datasets that the configuration knows, read off `conf/` without composing it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from data_modules.inspect import KnownDataset
from dof_lightning import configuration


def known_datasets() -> list[KnownDataset]:
    """One for each option of group data, in alphabetical order.

    The files are read as they are: composing and building every one would need every optional package.
    """
    experiments = _experiments()
    return [_known(option, experiments) for option in configuration.options("data")]


def _known(option: str, experiments: Mapping[str, str]) -> KnownDataset:
    content = _read(configuration.CONF_DIR / "data" / f"{option}.yaml")
    bases = content.get("defaults", [])
    worlds = [str(value) for base in bases if isinstance(base, dict) for key, value in base.items() if "/env@" in key]
    name, world = str(content.get("name", option)), worlds[0] if worlds else "-"
    if any(str(base).startswith("_imported") for base in bases):
        return KnownDataset(name, world, f"dof data import format=vault source=<vault> env={world} name={name}")
    return KnownDataset(name, world, f"dof data build {_typed(option, experiments)}")


def _typed(option: str, experiments: Mapping[str, str]) -> str:
    """The experiment of a dataset, or that of the dataset whose name is most like it."""
    if option in experiments:
        return f"experiment={experiments[option]}"
    nearest = max(experiments, key=lambda other: _shared_beginning(option, other))
    return f"experiment={experiments[nearest]} data={option}"


def _shared_beginning(one: str, other: str) -> int:
    """Length."""
    differences = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differences, min(len(one), len(other)))


def _experiments() -> dict[str, str]:
    """The first experiment that picks a dataset, by dataset; one called like the dataset comes first."""
    found: dict[str, str] = {}
    for experiment in configuration.options("experiment"):
        for entry in _read(configuration.CONF_DIR / "experiment" / f"{experiment}.yaml")["defaults"]:
            data = entry.get("override /data") if isinstance(entry, dict) else None
            if data is not None and (data not in found or data == experiment):
                found[data] = experiment
    return found


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content
