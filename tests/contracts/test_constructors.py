"""Constructors stay short, and the defaults of settings are the presets in `conf/`."""

import ast
import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from dof_lightning.algorithms.base import AlgorithmSettings
from dof_lightning.config import catalog
from dof_lightning.config import compose as configuration
from dof_lightning.settings import Settings

ROOT = Path(__file__).parents[2]
LIMIT = 8
FILES = [path for package in ("dof_lightning", "data_modules", "callbacks") for path in (ROOT / package).rglob("*.py")]


def _constructors(path: Path) -> Iterator[tuple[str, ast.arguments]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                    yield node.name, item.args


@pytest.mark.parametrize("path", sorted(FILES), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_constructor_takes_more_than_eight_arguments(path: Path) -> None:
    for name, arguments in _constructors(path):
        taken = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs][1:]
        assert len(taken) <= LIMIT, f"{name} takes {len(taken)} arguments"


@pytest.mark.parametrize("name", catalog.options("algorithm"))
def test_the_defaults_of_settings_are_the_preset(name: str) -> None:
    """In plain Python, without Hydra, an algorithm is the same as `algorithm=` picks, its parts included."""
    cfg = configuration.compose([f"algorithm={name}", "~tuned"])
    preset: Any = OmegaConf.to_container(cfg.algorithm, resolve=True)
    settings = get_object(preset["_target_"])
    assert issubclass(settings, AlgorithmSettings)
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    assert set(defaults) == {key for key in preset if not key.startswith("_")}
    _assert_same(preset, defaults, settings.__name__)
    settings()


def _assert_same(preset: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> None:
    for key, value in preset.items():
        if isinstance(value, Mapping):
            part, arguments = _taken_apart(defaults[key])
            assert part is get_object(value["_target_"]), f"{where}.{key}"
            _assert_same(value, arguments, f"{where}.{key}")
        elif not key.startswith("_"):
            expected = tuple(value) if isinstance(value, list) else value
            assert defaults[key] == expected, f"{where}.{key}"


def _taken_apart(factory: Any) -> tuple[Any, dict[str, Any]]:
    """The class or function that makes a part, and its arguments."""
    if isinstance(factory, Settings):
        return type(factory), {field.name: getattr(factory, field.name) for field in dataclasses.fields(factory)}
    made, given = (factory.func, factory.keywords) if isinstance(factory, partial) else (factory, {})
    arguments = {name: parameter.default for name, parameter in inspect.signature(made).parameters.items()}
    return made, arguments | given
