"""Specs of environments and datasets, and the check that the two fit together."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dof_lightning.errors import UserError
from dof_lightning.recipe import fingerprint as fingerprint

if TYPE_CHECKING:
    from torch import Tensor

SCORE_TITLES = {"normalized_score": "normalised score", "own_normalized_score": "own score"}  # as shown in tables

IMPORTED_FAMILY = "imported"  # value in the recipe of data whose world is not known

ActionKind = Literal["continuous", "discrete"]


@dataclass(frozen=True)
class AgentSpec:
    """One learned agent.

    Attributes:
        name: its name in the environment.
        observation_dim: O_i, before padding.
        action_dim: A_i, before padding: dimensions of a continuous action, or the number of discrete choices.
    """

    name: str
    observation_dim: int
    action_dim: int


@dataclass(frozen=True)
class ReferenceScores:
    """The returns that normalised scores 0 and 100 stand for.

    Attributes:
        random: return of the random policy.
        expert: return of the expert policy.
        source: where the two numbers come from.
    """

    random: float
    expert: float
    source: str

    def normalize(self, episode_return: float) -> float:
        """100 (S - S_random) / (S_expert - S_random)."""
        return 100.0 * (episode_return - self.random) / (self.expert - self.random)


@dataclass(frozen=True)
class EnvSpec:
    """A multi-agent environment.

    Attributes:
        name: a name for people, e.g. `mpe_spread`.
        agents: the learned agents, in order; agents that are not learned (prey) are part of the recipe.
        action_kind: `continuous` (each dimension in [-1, 1]) or `discrete` (integer indices).
        horizon: number of steps after which an episode is truncated.
        state_dim: S, 0 if there is no global state.
        recipe: everything that changes the meaning of its data (task variant, reward, observation layout, horizon,
            opponent); JSON values only.
        reference: the returns behind normalised scores, None if nobody has published any.
        own_reference: the same, measured by this project, if the published ones belong to another opponent than the
            recipe's.
    """

    name: str
    agents: tuple[AgentSpec, ...]
    action_kind: ActionKind
    horizon: int
    state_dim: int
    recipe: Mapping[str, Any]
    reference: ReferenceScores | None = None
    own_reference: ReferenceScores | None = None

    @property
    def n_agents(self) -> int:
        """N, the number of learned agents."""
        return len(self.agents)

    @property
    def observation_dim(self) -> int:
        """O, that of the largest agent; smaller observations are padded with zeros."""
        return max(agent.observation_dim for agent in self.agents)

    @property
    def action_dim(self) -> int:
        """A, that of the largest agent; smaller actions are padded with zeros."""
        return max(agent.action_dim for agent in self.agents)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the recipe."""
        return fingerprint(self.recipe)

    @property
    def is_playable(self) -> bool:
        """False for data imported without a world: there is nothing to roll out in."""
        return self.recipe.get("family") != IMPORTED_FAMILY

    @property
    def references(self) -> dict[str, ReferenceScores]:
        """The reference returns by the score that they define: `normalized_score`, `own_normalized_score`, or none."""
        known = {"normalized_score": self.reference, "own_normalized_score": self.own_reference}
        return {name: reference for name, reference in known.items() if reference is not None}

    def action_units(self, index: int) -> Mapping[str, Any] | None:
        """The units of an agent's actions in its world, if the recipe specifies them and they differ from ours.

        Args:
            index: the agent's.

        Returns:
            `low` and `high`, A_i numbers each, that -1 and 1 stand for; `start`, the number of the first discrete
            choice. None if the range is [-1, 1], if choices count from 0, or if the recipe specifies nothing.
        """
        entries = self.recipe.get("actions")
        entry = entries[index] if isinstance(entries, Sequence) and len(entries) == self.n_agents else None
        if not isinstance(entry, Mapping):
            return None
        units = {key: entry[key] for key in ("low", "high", "start") if key in entry}
        is_ours = {*units.get("low", [-1.0])} == {-1.0} and {*units.get("high", [1.0])} == {1.0}
        return None if is_ours and not units.get("start") else units

    def observation_mask(self) -> "Tensor":
        """`[N, O]` bool, False for padding."""
        return _mask([agent.observation_dim for agent in self.agents])

    def action_mask(self) -> "Tensor":
        """`[N, A]` bool, False for padding."""
        return _mask([agent.action_dim for agent in self.agents])

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for `dataset.json`."""
        return asdict(self) | {"recipe": dict(self.recipe)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "EnvSpec":
        """Inverse of `to_dict`; dictionaries of earlier versions have no `own_reference`."""
        scores = {name: data.get(name) for name in ("reference", "own_reference")}
        references = {name: None if value is None else ReferenceScores(**value) for name, value in scores.items()}
        agents = tuple(AgentSpec(**agent) for agent in data["agents"])
        return cls(**{**data, "agents": agents, **references})


@dataclass(frozen=True)
class DimensionStatistics:
    """Statistics of observations or actions over a dataset's training episodes, per agent and dimension.

    Attributes:
        mean, std, minimum, maximum: `[N, D]` float32.
        knots: `[Q, N, D]` float32, Q evenly spaced quantiles from the minimum to the maximum.
    """

    mean: np.ndarray
    std: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray
    knots: np.ndarray


@dataclass(frozen=True)
class DatasetStatistics:
    """Statistics for normalisers and return conditioning, so that no pass over the data is needed at start-up.

    Attributes:
        observations, actions: statistics per dimension; `actions` is None for discrete actions.
        return_mean, return_std: undiscounted episode return, mean over agents (the task return).
        discounted_return_knots: `[Q]` float32, quantiles of R_0 = sum_l discount^l r_l, mean over agents.
    """

    observations: DimensionStatistics
    actions: DimensionStatistics | None
    return_mean: float
    return_std: float
    discounted_return_knots: np.ndarray


@dataclass(frozen=True)
class DatasetSpec:
    """An offline dataset: the environment it was collected in, how it was collected, and its statistics.

    Attributes:
        name: a name for people, e.g. `mpe_spread_expert`.
        environment: the environment's spec at collection time.
        discount: gamma of the returns stored with the statistics.
        recipe: behaviour policy, its weights' hash, exploration noise, seed, episodes, format version and the
            environment's recipe; for data that no recipe of ours makes, a digest of the episodes. JSON values only.
        statistics: see `DatasetStatistics`; left out of comparisons.
        shards_sha256: sha256 of the shards' hashes in their order, identifies what a run has really seen; None if
            nothing is stored, and in checkpoints of version 0.1.0. Left out of comparisons.
    """

    name: str
    environment: EnvSpec
    discount: float
    recipe: Mapping[str, Any]
    statistics: DatasetStatistics = field(compare=False, repr=False)
    shards_sha256: str | None = field(default=None, compare=False, repr=False)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the recipe."""
        return fingerprint(self.recipe)

    @property
    def n_agents(self) -> int:
        """N, the number of learned agents."""
        return self.environment.n_agents

    @property
    def observation_dim(self) -> int:
        """O, the largest number of observation dimensions."""
        return self.environment.observation_dim

    @property
    def action_dim(self) -> int:
        """A, the largest number of action dimensions or choices."""
        return self.environment.action_dim

    @property
    def state_dim(self) -> int:
        """S, 0 if there is no global state."""
        return self.environment.state_dim

    @property
    def action_kind(self) -> ActionKind:
        """`continuous` or `discrete`."""
        return self.environment.action_kind

    @property
    def horizon(self) -> int:
        """Longest episode, in steps."""
        return self.environment.horizon


def _mask(sizes: Sequence[int]) -> "Tensor":
    """`[N, largest]`, True for the first `sizes[i]` of row i."""
    import torch  # imported here, because listing and showing datasets does not need it

    return torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]


_NAMED = 4  # differences between two worlds that an error names
_FIRST = ("family", "factory", "version", "sha256")


def check_compatible(dataset: DatasetSpec, environment: EnvSpec) -> None:
    """Refuses to roll out in a world other than the data's.

    Raises:
        UserError: the recipes differ; the message names the first fields that do, and the fix.
    """
    check_same_world(dataset.name, dataset.environment, environment)


def check_same_world(dataset_name: str, collected_in: EnvSpec, environment: EnvSpec) -> None:
    """Does what `check_compatible` does before there is a dataset, and raises the same errors."""
    if collected_in.fingerprint == environment.fingerprint:
        return
    if not collected_in.is_playable:
        raise UserError(
            f"dataset {dataset_name!r} was imported without env=, so there is no world to play in; add rollout=none "
            "or import it again with the env= it came from"
        )
    ours, theirs = environment.recipe, collected_in.recipe
    fields = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
    fields.sort(key=lambda key: key not in _FIRST)  # of another family or package, everything else differs, too
    differences = ", ".join(_difference(key, theirs.get(key), ours.get(key)) for key in fields[:_NAMED])
    if len(fields) > _NAMED:
        differences += f", and {len(fields) - _NAMED} more"
    raise UserError(
        f"dataset {dataset_name!r} was collected in {collected_in.name!r} ({collected_in.fingerprint}), "
        f"but env={environment.name!r} is {environment.fingerprint} ({differences}); "
        f"choose the env= the data came from, or data= collected in this one"
    )


def _difference(key: str, theirs: Any, ours: Any) -> str:
    """The difference in words: short values in full, long ones by name; with a kind (prey), kind and first digits."""
    if key == "sha256" and theirs and ours:
        return "sha256: the code of the module has changed"
    difference = f"{key}: {_shortened(theirs)} in the data, {_shortened(ours)} here"
    return difference if len(difference) < 80 else key


def _shortened(value: Any) -> str:
    if not isinstance(value, Mapping) or "kind" not in value:
        return repr(value)
    return " ".join([value["kind"], *([value["sha256"][:8]] if "sha256" in value else [])])
