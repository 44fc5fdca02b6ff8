"""What a block of episodes must be like to be stored: arrays of the world's types and sizes that fit together."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from data_modules.storage.action_units import ActionUnits
from data_modules.storage.arrays import DataFault, EpisodeRows, Episodes, find_fault
from data_modules.storage.shards import known_members
from dof_lightning.spec import EnvSpec

Block = Episodes | EpisodeRows

_REQUIRED = ("length", "rewards", "observations", "actions", "terminated", "episode_id")
_AXES = {  # of padded episodes; discrete actions have no A
    "observations": ("n", "N", "L+1", "O"),
    "actions": ("n", "N", "L", "A"),
    "rewards": ("n", "N", "L"),
    "terminated": ("n",),
    "length": ("n",),
    "episode_id": ("n",),
    "unseen_end": ("n",),
    "state": ("n", "L+1", "S"),
    "legal": ("n", "N", "L+1", "A"),
    "alive": ("n", "N", "L+1"),
    "extra_observations": ("n", "M", "L+1", "O'"),
    "extra_actions": ("n", "M", "L", "A'"),
    "extra_rewards": ("n", "M", "L"),
}
_FLAT = {"L+1": "sum(length+1)", "L": "sum(length)"}  # the axis that replaces n and time where episodes are end to end
_KINDS = {"f": ("biuf", "numbers"), "i": ("iu", "whole numbers"), "b": ("biuf", "true or false")}


def checked(blocks: Iterable[Block], environment: EnvSpec, units: ActionUnits) -> Iterator[EpisodeRows]:
    """Yields the blocks end to end, with actions in our units.

    Raises:
        DataFault: a block contradicts the environment's spec or itself.
    """
    for block in blocks:
        if fault := find_shape_fault(block, environment):
            raise _refuse(environment, fault)
        rows = block.flatten() if isinstance(block, Episodes) else block
        del block
        if not units.is_ours:
            rows = replace(rows, actions=units.for_agents(environment.agents).to_ours(rows.actions))
        if fault := find_fault(rows, environment):
            raise _refuse(environment, fault)
        yield rows
        del rows


def _refuse(environment: EnvSpec, fault: str) -> DataFault:
    return DataFault(f"the episodes do not fit {environment.name}: {fault}")


def find_shape_fault(block: Block, environment: EnvSpec) -> str | None:
    """Describes in words which array is missing, of another type or of another shape; None if none is."""
    arrays = block.arrays()
    if missing := [name for name in _REQUIRED if name not in arrays]:
        return f"{missing[0]}: the array is missing"
    if "state" not in arrays and environment.state_dim > 0:
        return (
            f"state [n, L+1, {environment.state_dim}]: the array is missing, which mixers and central critics read; "
            "add it, or describe a world without one: dataclasses.replace(environment, state_dim=0)"
        )
    if "state" in arrays and environment.state_dim == 0:
        return "a state is given, but the world has none (state_dim=0); leave it out"
    for name, array in arrays.items():
        if fault := _find_type_fault(name, array, environment):
            return fault
    sizes = _sizes(block, environment)
    for name in (*_REQUIRED, *arrays):
        if fault := _find_size_fault(name, arrays[name], sizes, block, environment):
            return fault
    if not block.n_episodes:
        return "a block contains no episodes; leave it out"
    return _find_length_fault(block.length, sizes["L"]) if isinstance(block, Episodes) else None


def _find_type_fault(name: str, array: np.ndarray, environment: EnvSpec) -> str | None:
    if not isinstance(array, np.ndarray):
        return f"{name}: must be a numpy array, not {type(array).__name__}"
    known = known_members(environment).get(name)
    allowed, wanted = _KINDS["f" if known is None else np.dtype(known.dtype).kind]
    return None if array.dtype.kind in allowed else f"{name}: type {array.dtype}, expected are {wanted}"


def _sizes(block: Block, environment: EnvSpec) -> dict[str, int | None]:
    """The size of each axis; None if any is allowed."""
    padded, rewards = isinstance(block, Episodes), block.rewards
    extra = [array for name, array in block.arrays().items() if name.startswith("extra_") and array.ndim > 1]
    longest = rewards.shape[2] if padded and rewards.ndim == 3 else None
    return {
        "n": block.length.shape[0] if block.length.ndim == 1 else None,
        "N": environment.n_agents,
        "L": longest,
        "L+1": None if longest is None else longest + 1,
        "O": environment.observation_dim,
        "A": environment.action_dim,
        "S": environment.state_dim,
        "M": extra[0].shape[1] if extra else None,
        _FLAT["L"]: int(block.length.sum()),
        _FLAT["L+1"]: int(block.length.sum()) + block.length.size,
    }


def _find_size_fault(
    name: str, array: np.ndarray, sizes: dict[str, int | None], block: Block, environment: EnvSpec
) -> str | None:
    axes, found = _axes(name, array, block, environment), list(array.shape)
    expected = [sizes.get(axis) for axis in axes]
    if len(found) == len(axes) and all(f == e or (e is None and f) for f, e in zip(found, expected, strict=True)):
        return None
    numbers = ", ".join("any" if size is None else str(size) for size in expected)
    return f"{name}: shape {found}, expected [{', '.join(axes)}] = [{numbers}]{_hint(name, found, expected)}"


def _axes(name: str, array: np.ndarray, block: Block, environment: EnvSpec) -> tuple[str, ...]:
    axes = _AXES[name]
    time = [_FLAT[axis] for axis in axes if axis in _FLAT]
    if isinstance(block, EpisodeRows) and time:
        axes = (*time, *(axis for axis in axes[1:] if axis not in _FLAT))
    discrete = environment.action_kind == "discrete" if name == "actions" else array.ndim < len(axes)
    return axes[:-1] if name.endswith("actions") and discrete else axes


def _hint(name: str, found: list[int], expected: list[int | None]) -> str:
    """How to correct the two most likely mistakes."""
    if name == "rewards" and len(found) == len(expected) - 1:
        return "; repeat a team's reward for each of its agents"
    if name == "observations" and len(found) == len(expected) == 4 and found[2] + 1 == expected[2]:
        return "; if no observation after the last step was recorded, repeat the one before it and set unseen_end"
    return ""


def _find_length_fault(length: np.ndarray, longest: int | None) -> str | None:
    wrong = (length < 1) | (length > (longest or 0))
    if not wrong.any():
        return None
    episode = int(wrong.argmax())
    return f"length of episode {episode} is {length[episode]}, allowed are 1 to {longest} (the steps in the arrays)"
