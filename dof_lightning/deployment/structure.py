"""A module as plain containers and tensors, and back: a description of its contents, not of its arguments.

Agent i of a team cannot be rebuilt from the team's configuration: its layers are slices of stacked ones, and a
network shared by all agents keeps the width of N identities. So every module is described by its class, its plain
attributes, its tensors and its submodules, and is assembled without calling a constructor. A
module that gains an argument or a part is exported without a change here.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dof_lightning.errors import UserError
from dof_lightning.moved import current_name

_OURS = tuple(
    f"dof_lightning.{part}" for part in ("actors", "diffusion", "networks", "factorization", "normalization", "policy")
)
_TRUSTED = (*_OURS, "torch.nn.modules")
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_PLAIN = (type(None), bool, int, float, str)


def describe(module: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Takes a module apart.

    Returns:
        JSON values, and the tensors that they refer to by name: copies that share memory with nothing.

    Raises:
        UserError: an attribute is neither plain, nor a tensor, nor made of these by a class of this project.
    """
    tensors: dict[str, Tensor] = {}
    return _describe(module, "", tensors), tensors


def rebuild(structure: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Inverse of `describe`: the module in evaluation mode, without gradients. No code of the description is run.

    Raises:
        UserError: it names a class that is not ours or does not exist, or a tensor that is missing.
    """
    module = _rebuild(structure, tensors)
    if not isinstance(module, nn.Module):
        raise UserError("structure: the outermost class is not a module")
    return module.eval()


def _describe(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Tensor):
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, list):
        return [_describe(item, _below(name, index), tensors) for index, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": [_describe(item, _below(name, index), tensors) for index, item in enumerate(value)]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": _describe_all(value, name, tensors)}
    path = f"{type(value).__module__}.{type(value).__qualname__}"
    if not (_is_trusted(path) and hasattr(value, "__dict__")):
        raise UserError(
            f"{name or 'policy'} is a {path}; only values, tensors and classes of dof_lightning are exported"
        )
    described: dict[str, Any] = {"class": path}
    if isinstance(value, nn.Module):
        own = {key: item for key, item in vars(value).items() if key not in _OF_EVERY_MODULE}
        for kind in ("parameters", "buffers", "modules"):
            described[kind] = _describe_all(getattr(value, f"_{kind}"), name, tensors)
    else:
        own = vars(value)
    return described | {"attributes": _describe_all(own, name, tensors)}


def _describe_all(items: Mapping[str, Any], name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {key: _describe(item, _below(name, key), tensors) for key, item in items.items()}


def _rebuild(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(node, list):
        return [_rebuild(item, tensors) for item in node]
    if not isinstance(node, Mapping):
        return node
    if "tensor" in node:
        if node["tensor"] not in tensors:
            raise UserError(f"structure: there is no tensor {node['tensor']!r} among the weights")
        return tensors[node["tensor"]]
    if "tuple" in node:
        return tuple(_rebuild(node["tuple"], tensors))
    if "dict" in node:
        return {key: _rebuild(item, tensors) for key, item in node["dict"].items()}
    return _rebuild_object(node, tensors)


def _rebuild_object(node: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    made = _blank(node["class"])
    vars(made).update({key: _rebuild(item, tensors) for key, item in node["attributes"].items()})
    if isinstance(made, nn.Module):
        for key, item in node["parameters"].items():
            tensor = _rebuild(item, tensors)
            made.register_parameter(key, None if tensor is None else nn.Parameter(tensor, requires_grad=False))
        for key, item in node["buffers"].items():
            made.register_buffer(key, _rebuild(item, tensors))
        for key, item in node["modules"].items():
            made.add_module(key, _rebuild(item, tensors))
    return made


def _blank(path: str) -> Any:
    """Makes an instance of a class that policies consist of, without calling its constructor."""
    module_name, _, name = current_name(path).rpartition(".")
    if not _is_trusted(module_name):
        raise UserError(f"structure: {path} is not one of the classes that agents consist of")
    try:
        kind = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"structure: this version has no {path}; use the version that exported it") from error
    if not isinstance(kind, type) or kind.__module__ != module_name:
        raise UserError(f"structure: {path} is not a class of {module_name}")
    made: Any = object.__new__(kind)
    if isinstance(made, nn.Module):
        nn.Module.__init__(made)
    return made


def _is_trusted(path: str) -> bool:
    return any(path == package or path.startswith(f"{package}.") for package in _TRUSTED)


def _below(name: str, part: str | int) -> str:
    return f"{name}.{part}" if name else str(part)
