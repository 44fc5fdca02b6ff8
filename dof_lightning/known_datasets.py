"""The datasets that the configuration knows, read off `conf/` without composing it."""

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
    return [_known(option, experiments.get(option)) for option in configuration.options("data")]


def _known(option: str, experiment: str | None) -> KnownDataset:
    content = _read(configuration.CONF_DIR / "data" / f"{option}.yaml")
    picks = [entry for entry in content.get("defaults", []) if isinstance(entry, dict)]
    worlds = [str(value) for entry in picks for key, value in entry.items() if key.startswith("/env@")]
    named = f"experiment={experiment}" if experiment else f"experiment=<one of its environment> data={option}"
    name = str(content.get("name", option))
    return KnownDataset(name, worlds[0] if worlds else "-", f"dof data build {named}")


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
