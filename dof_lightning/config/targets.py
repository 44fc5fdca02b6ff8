"""The classes that a configuration may instantiate, and the lookup of a name in it."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dof_lightning.config.plugins import plugins
from dof_lightning.errors import UserError, import_name

_TRUSTED = ("dof_lightning", "data_modules", "callbacks", "lightning", "torch.nn", "torch.optim")
_FUNCTIONS = (  # modules whose functions make parts; our other functions, such as commands, must not be run by a file
    *(f"dof_lightning.{name}" for name in ("diffusion", "factorization", "networks")),
    "callbacks.checkpoint",
)
_ENVIRONMENTS = ("dof_lightning", "mpe2", "pettingzoo", "gymnasium_robotics", "magent2", "momaland")


def check_targets(config: Mapping[str, Any]) -> None:
    """Refuses to instantiate anything that is not ours, Lightning's, torch's or an installed plug-in's.

    A checkpoint must not run code of unknown origin.

    The value of a key named `factory` makes a PettingZoo environment: a `parallel_env` or a `ParallelEnv`
    of a package that is known to contain environments.

    Raises:
        UserError: a `_target_` lies elsewhere, is reached through one of our modules but defined elsewhere, or is a
            function that makes no part; or a `factory` belongs to another package or kind.
    """
    for _, complaint in _complaints(config):
        raise UserError(f"{complaint}; pass trust=true if you trust its source")


def untrusted(config: Mapping[str, Any]) -> list[str]:
    """The names, as `key=name`, for which `check_targets` would require trust=true."""
    return [name for name, _ in _complaints(config)]


def _complaints(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields each name that may not be instantiated, and the complaint about it."""
    for key, target in _named(config, "", "_target_"):
        name, found = f"{key}={target}", locate(key, str(target))
        defined_in = getattr(found, "__module__", "") or ""
        trusted = (*_TRUSTED, *plugins())
        if not (_is_of(trusted, str(target)) and _is_of(trusted, defined_in)):
            yield name, f"{name} is outside {', '.join(trusted)}"
        elif not (inspect.isclass(found) or _is_of(_FUNCTIONS, defined_in)):
            yield name, f"{name} is a function that makes no part of a model"
    for key, factory in _named(config, "", "factory"):
        if factory is not None and not _is_environment(key, str(factory).replace(":", ".")):
            name = f"{key}={factory}"
            known = ", ".join((*_ENVIRONMENTS, *plugins()))
            yield name, f"{name} is not a `parallel_env` or ParallelEnv of {known}"


def attribute(target: str, name: str) -> Any:
    """Returns an attribute of a class; None if the class does not have it or is not trusted.

    For settings, it is the attribute of the class that is made from them (`makes`).
    """
    found = locate("_target_", target)
    return getattr(found.makes() if hasattr(found, "makes") else found, name, None)


def _named(node: Any, key: str, wanted: str) -> Iterator[tuple[str, Any]]:
    """Yields every value under a key of that name, in lists too, because Hydra instantiates these as well."""
    if re.split(r"[.\]]", key)[-1] == wanted:
        yield key, node
    elif isinstance(node, Mapping):
        for name, value in node.items():
            yield from _named(value, f"{key}.{name}" if key else str(name), wanted)
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _named(value, f"{key}[{index}]", wanted)


def _is_environment(key: str, factory: str) -> bool:
    known = (*_ENVIRONMENTS, *plugins())
    if not _is_of(known, factory):
        return False
    found = import_name(key, factory)
    if not _is_of(known, getattr(found, "__module__", None) or ""):
        return False
    if not inspect.isclass(found):
        return factory.endswith(".parallel_env")
    from pettingzoo import ParallelEnv  # imported here, because most configurations name no such environment

    return issubclass(found, ParallelEnv)


def _is_of(packages: Sequence[str], name: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def locate(key: str, target: str) -> Any:
    """Imports the object that a name stands for, if its package is trusted; returns None otherwise."""
    return import_name(key, target) if _is_of((*_TRUSTED, *plugins()), target) else None
