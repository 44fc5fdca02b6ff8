"""Sharding of weights over ranks by `fully_shard` (FSDP2), and access to whole weights.

A module class declares its treatment under `trainer.strategy=fsdp2`: `fsdp_role = "unit"` spreads each of its
parameters over the ranks and gathers all of them for its forward pass; `fsdp_role = "replicate"` leaves them whole on
every rank, for a handful of numbers that are read outside a forward pass. The outermost declaration counts.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import torch
from torch import Tensor, nn

from dof_lightning.errors import UserError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

FsdpRole = Literal["unit", "replicate"]

_SKELETON = "_whole_without_parameters"


def shard(model: nn.Module, mesh: "DeviceMesh") -> list[nn.Parameter]:
    """Shards all units of a model in place.

    Args:
        model: every parameter of it belongs to a module that declares its `fsdp_role`, or to one inside such a module.
        mesh: a one-dimensional mesh over the ranks.

    Returns:
        the trainable parameters that stay whole; their gradients have to be averaged by the caller.

    Raises:
        UserError: no declaration covers a parameter.
    """
    from torch.distributed.fsdp import fully_shard  # expensive to import, and not needed if nothing is sharded

    declared = list(_declarations(model, ""))
    units = [module for module, role in declared if role == "unit"]
    replicated = [module for module, role in declared if role == "replicate"]
    for unit in units:
        object.__setattr__(unit, _SKELETON, _skeleton(unit))
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)
    return [p for module in replicated for p in module.parameters() if p.requires_grad]


def whole(module: nn.Module) -> nn.Module:
    """The module itself if it is whole, else a copy with all parameters, which take no gradient.

    For a sharded unit all ranks must call this together.
    """
    skeleton = module.__dict__.get(_SKELETON)
    if skeleton is None:
        return _with_whole_children(module)
    gathered = copy.deepcopy(skeleton)
    parameters = {name: nn.Parameter(whole_tensor(p.detach()), False) for name, p in module.named_parameters()}
    for name, tensor in (*parameters.items(), *module.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        setattr(gathered.get_submodule(owner), leaf, tensor)
    return gathered


def _with_whole_children(module: nn.Module) -> nn.Module:
    children = {name: whole(child) for name, child in module.named_children()}
    if all(child is module.get_submodule(name) for name, child in children.items()):
        return module
    gathered = copy.copy(module)
    gathered._modules = {**module._modules, **children}
    return gathered


def local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This rank's parts of sharded tensors, and whole tensors as they are."""
    return [tensor.to_local() if _is_sharded(tensor) else tensor for tensor in tensors]


def whole_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor's full content, which all ranks must request together; a whole tensor as it is."""
    return tensor.full_tensor() if _is_sharded(tensor) else tensor


def first_row(tensor: Tensor) -> int:
    """The index in the whole tensor of `local`'s first row: ranks hold equal parts, the last ones less."""
    if not _is_sharded(tensor):
        return 0
    mesh = tensor.device_mesh
    ranks, rank = mesh.size(), mesh.get_local_rank()
    return rank * -(-tensor.shape[0] // ranks)


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replaces the gradients of parameters that are whole on every rank by their means over the ranks."""
    for parameter in parameters:
        if parameter.grad is not None:
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= torch.distributed.get_world_size()


def _is_sharded(tensor: Any) -> TypeGuard[Any]:
    return hasattr(tensor, "to_local")  # a DTensor, whose class would have to be imported


def _declarations(module: nn.Module, name: str) -> Iterable[tuple[nn.Module, FsdpRole]]:
    role: FsdpRole | None = getattr(type(module), "fsdp_role", None)
    if role is not None:
        yield module, role
        return
    if any(True for _ in module.parameters(recurse=False)):
        where = f"{name} ({type(module).__name__})" if name else type(module).__name__
        raise UserError(
            f"trainer.strategy=fsdp2: {where} has parameters but no `fsdp_role`; declare 'unit' or 'replicate' on its "
            "class, or use trainer=ddp"
        )
    for child_name, child in module.named_children():
        yield from _declarations(child, f"{name}.{child_name}" if name else child_name)


def _skeleton(module: nn.Module) -> nn.Module:
    """A copy of a module whose parameters take no memory."""
    without = {id(parameter): nn.Parameter(parameter.detach().to("meta"), False) for parameter in module.parameters()}
    return copy.deepcopy(module, without)
