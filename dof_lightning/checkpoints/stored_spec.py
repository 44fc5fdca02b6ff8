"""Conversion of a dataset's spec to and from the plain containers and tensors of a checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from dof_lightning.plain import check_plain
from dof_lightning.schema import anything, many, mapping, number, one_of, record, text, whole
from dof_lightning.spec import DatasetSpec, DatasetStatistics, DimensionStatistics, EnvSpec

_AGENT = record({"name": text, "observation_dim": whole(1), "action_dim": whole(1)}, others=anything)
_ENVIRONMENT = record(
    {
        "name": text,
        "agents": many(_AGENT, least=1),
        "action_kind": one_of("continuous", "discrete"),
        "horizon": whole(1),
        "state_dim": whole(0),
        "recipe": mapping,
    },
    others=anything,
)
_STATISTICS = record({"return_mean": number(), "return_std": number()}, others=anything)
_SPEC = record(
    {"name": text, "discount": number(), "recipe": mapping, "environment": _ENVIRONMENT, "statistics": _STATISTICS},
    others=anything,
)


def spec_to_plain(spec: DatasetSpec) -> dict[str, Any]:
    """Inverse of `spec_from_plain`; statistics become tensors."""
    plain = asdict(spec) | {"recipe": dict(spec.recipe), "environment": spec.environment.to_dict()}
    return _to_plain(plain)


def spec_from_plain(plain: Mapping[str, Any]) -> DatasetSpec:
    """Rebuilds a spec with numpy statistics from plain containers and tensors.

    Raises:
        ValueError: a value is missing, has another type, or does not fit the others.
    """
    _SPEC("dataset", plain)
    check_plain([plain["recipe"], plain["environment"]])
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
    statistics = spec.statistics
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
