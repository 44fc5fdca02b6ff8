"""Checkpoints of your own `lightning.Trainer`: their contents, and the algorithm loaded from them.

They contain the spec and the settings, so that `dof eval checkpoint=<path>` and `load_from_checkpoint` need nothing
else.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dof_lightning.checkpoints.checkpoint import MODEL_KEYS, build_algorithm, describe, read
from dof_lightning.errors import UserError, import_name
from dof_lightning.settings import Settings

if TYPE_CHECKING:  # it imports Lightning, which reading a checkpoint does not need
    from dof_lightning.algorithms.base import Algorithm

_REPORT_EPISODES = 200  # as in conf/rollout/default.yaml


def describe_algorithm(algorithm: "Algorithm") -> dict[str, Any]:
    """The contents of a checkpoint beside the weights, in plain containers, as `train.py` stores them."""
    spec, settings, trainer = algorithm.spec, algorithm.settings, algorithm.trainer
    nameless, plain = None, {}
    try:
        if settings.makes() is not type(algorithm):
            raise ValueError(f"{type(algorithm).__name__} has no settings of its own (made_by)")
        plain = _to_plain("settings", settings)
    except ValueError as error:
        nameless = str(error)
    config = {
        **{key: plain[key] for key in MODEL_KEYS if key in plain},
        "seed": settings.seed,
        "execution": settings.execution,
        "trust": False,
        "algorithm": plain,
        "env": {},  # algorithms have no environment; its name among the choices is the spec's
        "callbacks": {},
        "rollout": {"enabled": True, "report_episodes": _REPORT_EPISODES},
        "data": {"global_batch_size": 0},
        "trainer": {"max_steps": trainer.max_steps, "accumulate_grad_batches": trainer.accumulate_grad_batches},
        "choices": {
            "algorithm": type(algorithm).__name__,
            "data": spec.name,
            "env": spec.environment.name,
            "experiment": "none",
        },
        **({} if nameless is None else {"nameless": nameless}),
    }
    returns = {"return_mean": spec.statistics.return_mean, "return_std": spec.statistics.return_std}
    return describe(config, spec, returns)


def load_algorithm(path: Path | str, trust: bool = False) -> "Algorithm":
    """Loads the trained algorithm of a checkpoint, of `train.py` or of another Trainer; needs no dataset.

    Args:
        path: a `.ckpt`, or a run's folder for its last one.
        trust: whether the checkpoint may name classes outside this project, lightning and torch.

    Raises:
        UserError: the checkpoint cannot be read, names a class that is not trusted, or does not contain its settings.
    """
    checkpoint = read(Path(path))
    return build_algorithm(checkpoint, checkpoint.config | {"trust": trust})


def _to_plain(key: str, value: Any) -> Any:
    """Converts a value of settings, with its factories as `_target_`s.

    Raises:
        ValueError: it is made by an object that no other process can import; the message names the key.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Sequence):
        return [_to_plain(key, item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): _to_plain(f"{key}.{name}", item) for name, item in value.items()}
    if isinstance(value, Settings):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"_target_": _name(key, type(value))} | {name: _to_plain(name, item) for name, item in fields.items()}
    made, keywords = (value.func, value.keywords) if isinstance(value, partial) else (value, {})
    if isinstance(value, partial) and value.args:
        raise ValueError(f"{key} is a partial with positional arguments; name them")
    target = _name(key, made)
    arguments = {name: _to_plain(f"{key}.{name}", item) for name, item in keywords.items()}
    return {"_target_": target, "_partial_": True} | dict(_defaults(made)) | arguments


def _defaults(made: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """Yields values left at their defaults, so that `dof eval` can change them as it changes those of `train.py`."""
    for name, parameter in inspect.signature(made).parameters.items():
        if name != "spec" and parameter.default is not parameter.empty:  # parts are called with the spec
            with suppress(ValueError):  # the default applies anyway
                yield name, _to_plain(name, parameter.default)


def _name(key: str, made: Any) -> str:
    if not hasattr(made, "__qualname__"):
        raise ValueError(f"{key} is a {type(made).__name__}, which cannot be stored; use a number, a text or a class")
    path = f"{made.__module__}.{made.__qualname__}"
    try:
        if made.__module__ == "__main__" or import_name(key, path) is not made:
            raise ValueError(path)
    except (UserError, ValueError) as error:
        raise ValueError(f"{key} is {path}, which other programs cannot import; move it into a module") from error
    return path
