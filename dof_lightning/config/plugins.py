"""Installed third-party packages that provide options and classes: the entry points of group `dof_lightning.plugins`.

An entry point names a package. The options in its folder `conf`, which is laid out like ours, can be typed like ours,
and its classes are trusted like ours: whoever installed the package has decided that it may run.
"""

import importlib.util
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from dof_lightning.errors import UserError

GROUP = "dof_lightning.plugins"


@cache
def plugins() -> Mapping[str, Path]:
    """The folder of each plug-in's options, which need not exist, by the package's name.

    Raises:
        UserError: an entry point names no package.
    """
    return {entry.value: _folder_of(entry) / "conf" for entry in entry_points(group=GROUP)}


def _folder_of(entry: EntryPoint) -> Path:
    name = entry.value
    found = importlib.util.find_spec(name) if name.isidentifier() else None  # a dotted name would import its parents
    if found is None or not found.submodule_search_locations:
        whose = "" if entry.dist is None else f" of {entry.dist.name}"
        raise UserError(
            f"the plug-in {entry.name}={name}{whose} names no package that can be imported; its entry point "
            f"({GROUP}) must name one by a word without dots"
        )
    return Path(found.submodule_search_locations[0])
