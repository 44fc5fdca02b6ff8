"""The one exception that reaches a user as a single line."""

import importlib
from typing import Any

OURS = ("dof_lightning", "data_modules", "callbacks")
_EXTRAS = {  # packages that are installed by one of our extras
    "mpe2": "-e '.[mpe2]'",
    "gymnasium_robotics": "-e '.[mamujoco]'",
    "mujoco": "-e '.[mamujoco]'",
}


class UserError(Exception):
    """An error that the user can fix: the message names the file or key, and the fix.

    `train.py` and `dof` print it as one line and exit with code 2; every other exception is a defect of ours and
    keeps its traceback.
    """


class SharedError(UserError):
    """An error that every rank raises alike, so that rank zero's line is enough."""


def explain_missing_module(key: str, target: str, error: ModuleNotFoundError) -> str:
    """Explains in one line why the module of a dotted name cannot be imported: it is unknown, or not installed."""
    missing, package = error.name or "", target.partition(".")[0]
    if target.startswith(f"{missing}.") and (missing != package or package in OURS):
        return f"{key}={target}: there is no module {target.rpartition('.')[0]!r}"
    own = "" if missing in _EXTRAS else ", or, if it is your own, name the folder it lies in by PYTHONPATH=<folder>"
    return f"{key}={target} needs the package {missing!r}: pip install {_EXTRAS.get(missing, missing)}{own}"


def import_name(key: str, target: str) -> Any:
    """Imports the object that a dotted name stands for.

    Raises:
        UserError: its module or package is missing, or contains no such name.
    """
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise UserError(explain_missing_module(key, target, error)) from error
    except AttributeError as error:
        raise UserError(f"{key}={target}: {module} has no {name!r}") from error
