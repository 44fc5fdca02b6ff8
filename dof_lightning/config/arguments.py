"""A check of a configuration's values against the annotations of the classes that receive them."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from dof_lightning.config.targets import locate
from dof_lightning.errors import UserError
from dof_lightning.settings import check_range, options_of

DESCRIPTIONS = {bool: "true or false", int: "an integer", float: "a number", str: "text", type(None): "null"}


def check_arguments(config: Mapping[str, Any], written: Mapping[str, Any] | None = None) -> None:
    """Refuses a value that contradicts the Python annotation of the argument that receives it.

    Numbers and their `Range`, texts, truth values, null, `Literal` choices and lists of these are checked, in unions
    too; all other annotations are left to the class itself, and so are trusted classes outside this project.

    Args:
        config: the resolved configuration.
        written: the configuration with its interpolations, so that the message names the key a user can type.

    Raises:
        UserError: a value does not fit; the message names the key, the value and what would fit.
    """
    for prefix, node, as_written in _nodes(config, config if written is None else written):
        arguments = _annotations(locate(f"{prefix}._target_", str(node["_target_"])))
        for name, value in node.items():
            if name.startswith("_") or isinstance(value, Mapping) or arguments is None:
                continue
            key = _typed_key(f"{prefix}.{name}".removeprefix("."), as_written[name])
            if name not in arguments:
                raise UserError(f"unknown key `{key}`: {node['_target_']} takes {', '.join(arguments)}")
            if not _fits(value, arguments[name]):
                raise UserError(f"{key} must be {_describe(arguments[name])}, got {value!r}")
            _check_ranges(key, value, arguments[name])


def asks_for(config: Mapping[str, Any], key: str, kind: type) -> bool:
    """Whether the class that receives the value of a key, such as `algorithm.alpha`, is annotated to take a `kind`."""
    path, _, name = key.rpartition(".")
    node: Any = config
    for part in path.split(".") if path else ():
        node = node.get(part) if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping) or "_target_" not in node:
        return False
    arguments = _annotations(locate(f"{path}._target_", str(node["_target_"])))
    return arguments is not None and kind in map(_plain, options_of(arguments.get(name, Any)))


def _nodes(
    config: Mapping[str, Any], written: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Yields every node with a `_target_`, resolved and as written; one referred to comes at its own place."""
    if "_target_" in config:
        yield prefix, config, written
    for name, value in config.items():
        if isinstance(value, Mapping) and isinstance(written[name], Mapping):
            yield from _nodes(value, written[name], f"{prefix}.{name}" if prefix else name)


def _typed_key(key: str, written: Any) -> str:
    reference = re.fullmatch(r"\$\{([\w.]+)\}", written) if isinstance(written, str) else None
    return reference[1] if reference else key


@cache
def _annotations(target: Any) -> Mapping[str, Any] | None:
    """Annotations of all arguments; None if they are not known.

    Further keywords of a class are those of the next class from which it derives.
    """
    if not inspect.isclass(target):
        known, is_open = _own_annotations(target)
        return None if is_open else known
    found: dict[str, Any] = {}
    for kind in target.__mro__:
        if kind is object:
            break
        if "__init__" in vars(kind):
            known, is_open = _own_annotations(kind.__init__)  # type: ignore[misc]
            found = {**(known or {}), **found}
            if known is None:
                return None
            if not is_open:
                break
    return {name: hint for name, hint in found.items() if name != "self"}


def _own_annotations(function: Any) -> tuple[dict[str, Any] | None, bool]:
    """Annotations of a function's named arguments (None if they are not known), and whether it takes others too."""
    try:
        hints, parameters = get_type_hints(function, include_extras=True), inspect.signature(function).parameters
    except (NameError, TypeError, ValueError):
        return None, False
    is_open = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    named = [name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD]
    return {name: hints.get(name, Any) for name in named}, is_open


def _plain(annotation: Any) -> Any:
    """An annotation without what `Annotated` adds to it."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _check_ranges(key: str, value: Any, annotation: Any) -> None:
    """Refuses a number, alone or in a list, outside the `Range` of its annotation."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        check_range(key, value, annotation)
        return
    for option in options_of(annotation):
        if get_origin(option) is not None and get_origin(option) is not Literal and get_args(option):
            for item in value:
                check_range(key, item, get_args(option)[0], among=value)


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a plain value fits an annotation; True if the annotation does not constrain plain values."""
    judged = [_fits_one(value, option) for option in options_of(annotation)]
    known = [verdict for verdict in judged if verdict is not None]
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return any(known) or not known or (is_list and None in judged)


def _fits_one(value: Any, annotation: Any) -> bool | None:
    annotation = _plain(annotation)
    if get_origin(annotation) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(annotation))
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation in DESCRIPTIONS:
        return type(value) is annotation
    origin = get_origin(annotation)
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        return is_list and all(_fits(item, get_args(annotation)[0]) for item in value)
    return None


def _describe(annotation: Any) -> str:
    return " or ".join(text for option in options_of(annotation) if (text := _describe_one(option)))


def _describe_one(annotation: Any) -> str:
    annotation = _plain(annotation)
    if get_origin(annotation) is Literal:
        return " or ".join(str(choice) for choice in get_args(annotation))
    if annotation in DESCRIPTIONS:
        return DESCRIPTIONS[annotation]
    origin = get_origin(annotation)
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        return f"a list, each {_describe(get_args(annotation)[0])}"
    return ""
