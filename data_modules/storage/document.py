"""The schema of `dataset.json`, checked before its content is used."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from data_modules.storage.shards import Member, ShardEntry, known_members
from dof_lightning.agent_names import check_agent_names
from dof_lightning.errors import UserError
from dof_lightning.recipe import check_finite
from dof_lightning.schema import (
    anything,
    digest,
    many,
    number,
    one_of,
    optional,
    record,
    refuse,
    text,
    whole,
)
from dof_lightning.spec import DatasetStatistics, DimensionStatistics, EnvSpec

_ENCODED = record({"shape": many(whole(0)), "float32": text})
_TABLE = many(many(number(), least=1), least=1)
_DEVIATIONS = many(many(number(0), least=1), least=1)
_DIMENSIONS = record({"mean": _TABLE, "std": _DEVIATIONS, "minimum": _TABLE, "maximum": _TABLE, "knots": _ENCODED})
_REFERENCE = optional(record({"random": number(), "expert": number(), "source": text}))
_SIZE = whole(1, 10**7)
_ENVIRONMENT = record(
    {
        "name": text,
        "agents": many(record({"name": text, "observation_dim": _SIZE, "action_dim": _SIZE}), least=1),
        "action_kind": one_of("continuous", "discrete"),
        "horizon": whole(1),
        "state_dim": whole(0, 10**7),
        "recipe": record({}, others=anything),
        "reference": _REFERENCE,
        "own_reference": _REFERENCE,
    },
    optional_keys=("reference", "own_reference"),
)
_SHARD = record(
    {
        "name": text,
        "n_episodes": whole(1),
        "n_steps": whole(1),
        "n_training_windows": whole(0),
        "n_bytes": whole(0),
        "sha256": digest,
    }
)
_DESCRIPTION = {
    "name": text,
    "environment": _ENVIRONMENT,
    "discount": number(0, 1),
    "recipe": record({}, others=anything),
    "behavior": record(
        {"return_mean": number(), "return_std": number(0), "win_rate": optional(number(0, 1))},
        others=anything,
        optional_keys=("win_rate",),
    ),
}
_DOCUMENT = record(
    {
        "format_version": whole(1),
        "fingerprint": text,
        **_DESCRIPTION,
        "n_episodes": whole(1),
        "n_steps": whole(1),
        "longest": whole(1),
        "n_terminated": whole(0),
        "members": record({}, others=record({"dtype": text, "shape": many(whole(1))})),
        "shards": many(_SHARD, least=1),
        "return_knots": _ENCODED,
        "statistics": record(
            {
                "observations": _DIMENSIONS,
                "actions": optional(_DIMENSIONS),
                "return_mean": number(),
                "return_std": number(0),
                "discounted_return_knots": _ENCODED,
            }
        ),
    },
    others=anything,
)
_DESCRIBED = record(_DESCRIPTION)
_ALWAYS = ("observations", "actions", "rewards", "terminated", "length", "episode_id")
_OTHERS = {"extra_observations": 2, "extra_actions": 2, "extra_rewards": 1}  # most dimensions, for agents not learned


def check_document(document: Any) -> None:
    """Checks keys, types and ranges.

    Raises:
        ValueError: names the first key with an invalid value.
    """
    _DOCUMENT("", document)


def check_description(
    name: str, environment: EnvSpec, discount: float, recipe: Mapping[str, Any], behavior: Mapping[str, Any]
) -> None:
    """Refuses a description that would make the document unreadable, before there are episodes to lose.

    Raises:
        UserError: names the first key with an invalid value, or that contradicts another, or agents that share a
            name.
    """
    check_finite(recipe, "recipe")
    measured = {"return_mean": 0.0, "return_std": 0.0}  # in place of values that the episodes give later
    description = {"name": name, "environment": environment.to_dict(), "discount": discount}
    description |= {"recipe": dict(recipe), "behavior": {**behavior, **measured}}
    try:
        document = json.loads(json.dumps(description, allow_nan=False))
        _DESCRIBED("", document)
        _check_recipe(document, environment)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} cannot be described like this ({error}); correct the dataset's Description") from error
    check_agent_names(environment.name, [agent.name for agent in environment.agents])


def check_agreement(document: Mapping[str, Any], environment: EnvSpec, statistics: DatasetStatistics) -> None:
    """Checks that the parts agree with each other, once each of them is valid.

    Raises:
        ValueError: names the first keys that contradict each other.
    """
    shards = [ShardEntry(**shard) for shard in document["shards"]]
    _check_shards(shards, document["longest"])
    for name in ("n_episodes", "n_steps"):
        if (total := sum(getattr(shard, name) for shard in shards)) != document[name]:
            raise ValueError(f"{name} is {document[name]}, the shards contain {total}")
    if document["longest"] > environment.horizon:
        raise ValueError(f"longest is {document['longest']}, the environment's horizon {environment.horizon}")
    if document["n_terminated"] > document["n_episodes"]:
        raise ValueError(f"n_terminated is {document['n_terminated']} of {document['n_episodes']} episodes")
    _check_recipe(document, environment)
    _check_members(
        {name: Member(m["dtype"], tuple(m["shape"])) for name, m in document["members"].items()}, environment
    )
    _check_statistics(statistics, environment)


def _check_shards(shards: Iterable[ShardEntry], longest: int) -> None:
    names = set()
    for shard in shards:
        if "/" in shard.name or "\\" in shard.name or shard.name.startswith("."):
            raise ValueError(f"shard name {shard.name!r} leaves the dataset's folder")
        if shard.name in names:
            raise ValueError(f"shard {shard.name} is listed twice")
        names.add(shard.name)
        if not shard.n_episodes <= shard.n_steps <= shard.n_episodes * longest:
            raise ValueError(
                f"{shard.name}: {shard.n_episodes} episodes of 1 to {longest} steps are not {shard.n_steps}"
            )
        if shard.n_training_windows > shard.n_steps:
            raise ValueError(f"{shard.name}: n_training_windows is {shard.n_training_windows} of {shard.n_steps} steps")


def _check_recipe(document: Mapping[str, Any], environment: EnvSpec) -> None:
    """Checks that one of our recipes agrees with the document; in other recipes, keys may mean anything."""
    recipe = document["recipe"]
    expected = {"discount": document["discount"], "environment": document["environment"]["recipe"]}
    for key, value in expected.items() if "format_version" in recipe else ():
        if (stated := recipe.get(key, value)) != value:
            raise refuse(key, f"the recipe's value ({str(stated)[:40]})", value)
    for reference in environment.references.values():
        if reference.random == reference.expert:
            raise ValueError(f"environment: random and expert of a reference are both {reference.random}")


def _check_members(members: Mapping[str, Member], environment: EnvSpec) -> None:
    if missing := [name for name in _ALWAYS if name not in members]:
        raise ValueError(f"members.{missing[0]} is missing")
    known = known_members(environment)
    for name, member in members.items():
        if name in known:
            if member != known[name]:
                raise ValueError(f"members.{name} is {_describe(member)}, the environment has {_describe(known[name])}")
        elif name not in _OTHERS:
            raise ValueError(f"members.{name} is an unknown array")
        elif member.dtype not in ("<f4", "<i8") or not 1 <= len(member.shape) <= _OTHERS[name]:
            raise ValueError(f"members.{name} cannot be {_describe(member)}")


def _check_statistics(statistics: DatasetStatistics, environment: EnvSpec) -> None:
    if (statistics.actions is None) != (environment.action_kind == "discrete"):
        raise ValueError(f"statistics.actions do not fit {environment.action_kind} actions")
    for place, array, shape in _arrays(statistics, environment):
        if array.shape[array.ndim - len(shape) :] != shape or array.ndim - len(shape) != place.endswith("knots"):
            raise ValueError(f"statistics.{place} has shape {list(array.shape)}, expected {list(shape)}")
        if not np.isfinite(array).all():
            raise ValueError(f"statistics.{place} has values that are not finite")
    for name, of_dimensions in (("observations", statistics.observations), ("actions", statistics.actions)):
        if of_dimensions is not None and (of_dimensions.minimum > of_dimensions.maximum).any():
            raise ValueError(f"statistics.{name}: a minimum is larger than its maximum")


def _arrays(statistics: DatasetStatistics, environment: EnvSpec) -> Iterator[tuple[str, np.ndarray, tuple[int, ...]]]:
    """Each array with its place and the shape of its entry per knot."""
    n = environment.n_agents
    sizes: list[tuple[str, DimensionStatistics | None, int]] = [
        ("observations", statistics.observations, environment.observation_dim),
        ("actions", statistics.actions, environment.action_dim),
    ]
    for name, of_dimensions, size in sizes:
        for field, array in () if of_dimensions is None else vars(of_dimensions).items():
            yield f"{name}.{field}", array, (n, size)
    yield "discounted_return_knots", statistics.discounted_return_knots, ()


def _describe(member: Member) -> str:
    return f"{member.dtype} {list(member.shape)}"
