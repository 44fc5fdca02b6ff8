"""A dataset's spec as a checkpoint holds it: plain containers and tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from dof_lightning.plain import NUMBER, check_kinds, check_plain
from dof_lightning.spec import DatasetSpec, DatasetStatistics, DimensionStatistics, EnvSpec

_SPEC_KINDS: Mapping[str, type | tuple[type, ...]] = {
    **{"name": str, "discount": NUMBER, "recipe": dict, "statistics": dict},
    **{"environment.name": str, "environment.agents": list, "environment.recipe": dict},
    **{"environment.action_kind": str, "environment.horizon": int, "environment.state_dim": int},
    **{"statistics.return_mean": NUMBER, "statistics.return_std": NUMBER},
}
_AGENT_KINDS: Mapping[str, type] = {"name": str, "observation_dim": int, "action_dim": int}


def spec_to_plain(spec: DatasetSpec) -> dict[str, Any]:
    """Inverse of `spec_from_plain`; statistics become tensors."""
    plain = asdict(spec) | {"recipe": dict(spec.recipe), "environment": spec.environment.to_dict()}
    return _to_plain(plain)


def spec_from_plain(plain: Mapping[str, Any]) -> DatasetSpec:
    """A spec with numpy statistics from plain containers and tensors.

    Raises:
        ValueError: a value is missing, of another kind, or does not fit the others.
    """
    check_kinds(plain, _SPEC_KINDS, "dataset: ")
    check_plain([plain["recipe"], plain["environment"]])
    for agent in plain["environment"]["agents"]:
        check_kinds(agent, _AGENT_KINDS, "dataset: an agent's ")
    statistics = dict(plain["statistics"])
    for name in ("observations", "actions"):
        if name == "observations" or statistics[name] is not None:  # discrete actions have none
            statistics[name] = DimensionStatistics(**{k: v.numpy() for k, v in statistics[name].items()})
    statistics["discounted_return_knots"] = statistics["discounted_return_knots"].numpy()
    spec = DatasetSpec(
        **{
            **plain,
            "environment": EnvSpec.from_dict(plain["environment"]),
            "statistics": DatasetStatistics(**statistics),
        }
    )
    _check_sizes(spec)
    return spec


def _check_sizes(spec: DatasetSpec) -> None:
    environment, statistics = spec.environment, spec.statistics
    if environment.action_kind not in ("continuous", "discrete"):
        raise ValueError(f"dataset: environment.action_kind must be continuous or discrete, got {spec.action_kind!r}")
    sizes = [size for agent in environment.agents for size in (agent.observation_dim, agent.action_dim)]
    if not sizes or min(*sizes, spec.horizon) < 1 or spec.state_dim < 0:
        raise ValueError("dataset: agents, their dimensions and the horizon must be at least 1")
    if (statistics.actions is None) != (spec.action_kind == "discrete"):
        raise ValueError(f"dataset: statistics.actions do not fit {spec.action_kind} actions")
    for name, width in (("observations", spec.observation_dim), ("actions", spec.action_dim)):
        of_dimensions: DimensionStatistics | None = getattr(statistics, name)
        arrays = {} if of_dimensions is None else vars(of_dimensions)
        for field, array in arrays.items():
            if array.shape[-2:] != (spec.n_agents, width) or array.ndim != 2 + (field == "knots"):
                raise ValueError(f"dataset: statistics.{name}.{field} has shape {list(array.shape)}")


def _to_plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.array(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_to_plain(item) for item in value]
    return value
