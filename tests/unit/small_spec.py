"""A dataset's spec small enough for unit tests: three agents, one of them with a smaller action."""

import numpy as np

from dof_lightning.spec import ActionKind, AgentSpec, DatasetSpec, DatasetStatistics, DimensionStatistics, EnvSpec

ACTION_DIMS = (2, 1, 2)


def dimension_statistics(data: np.ndarray, quantiles: int = 11) -> DimensionStatistics:
    """Of data `[M, N, D]`."""
    levels = np.linspace(0, 1, quantiles)
    return DimensionStatistics(
        mean=data.mean(0).astype(np.float32),
        std=data.std(0).astype(np.float32),
        minimum=data.min(0).astype(np.float32),
        maximum=data.max(0).astype(np.float32),
        knots=np.quantile(data, levels, axis=0).astype(np.float32),
    )


def small_spec(
    action_dims: tuple[int, ...] = ACTION_DIMS,
    observation_dim: int = 4,
    action_kind: ActionKind = "continuous",
    state_dim: int = 0,
) -> DatasetSpec:
    agents = tuple(AgentSpec(f"agent_{i}", observation_dim, dim) for i, dim in enumerate(action_dims))
    environment = EnvSpec("small", agents, action_kind, horizon=5, state_dim=state_dim, recipe={"game": "small"})
    rng = np.random.default_rng(0)
    observations = dimension_statistics(rng.normal(size=(50, len(agents), observation_dim)))
    actions = dimension_statistics(rng.uniform(-1, 1, size=(50, len(agents), max(action_dims))))
    statistics = DatasetStatistics(
        observations=observations,
        actions=None if action_kind == "discrete" else actions,
        return_mean=0.0,
        return_std=1.0,
        discounted_return_knots=np.linspace(0, 1, 11, dtype=np.float32),
    )
    return DatasetSpec("small", environment, discount=0.99, recipe={"data": "small"}, statistics=statistics)
