"""The identity of a configuration: its leaves, its hashes, and the first difference between two."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dof_lightning.errors import OURS

# Keys younger than stored hashes, each with the value that means the earlier behaviour; at that value the key is left
# out.
_YOUNGER: Mapping[str, Any] = {
    "init_from": None,
    "rollout.until_plateau": None,
    "callbacks.rollout.until_plateau": None,
    "algorithm.value_learning": "td",
    "algorithm.conservative_weight": 1.0,
    "algorithm.conservative_samples": 10,
    "algorithm.implicit_temperature": None,
    "algorithm.expectile": 0.7,
    "algorithm.advantage_temperature": None,
    "algorithm.q_balance": None,
    "algorithm.q_warmup_steps": 0,
    "algorithm.shared_seed_of": "window",
    "algorithm.returns": "total",
    "algorithm.target_advantage": 2.0,
    "algorithm.learning_rate_schedule": "constant",
    "algorithm.learning_rate_warmup_steps": 0,
}

# As `_YOUNGER`, for planners alone: other algorithms have always had these keys, some with other defaults.
_YOUNGER_OF_PLANNERS: Mapping[str, Any] = {
    "algorithm.critics": "none",
    "algorithm.critic._target_": "dof_lightning.networks.critic.AgentwiseCritic",
    "algorithm.critic._partial_": True,
    "algorithm.critic.hidden": [128, 128],
    "algorithm.critic.sharing": "independent",
    "algorithm.critic.activation": "silu",
    "algorithm.critic.agent_embedding": None,
    "algorithm.value_learning": "expectile",
    "algorithm.discount": 0.99,
    "algorithm.candidates": 1,
}

# The place of a run, and the extent of its certificate: they do not change weights and scores.
_WHERE_NOT_WHAT = ("run_dir", "resume", "trust", "data.root", "data.source.root", "rollout.certificate_episodes")


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values below nested mappings, by dotted key."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def meant_before(plain: Mapping[str, Any]) -> Mapping[str, Any]:
    """By dotted key, the value that a configuration had in effect before the key existed."""
    plans = "inverse" in (plain.get("algorithm") or {})
    return {**_YOUNGER, **_YOUNGER_OF_PLANNERS} if plans else _YOUNGER


def config_hash(plain: Mapping[str, Any]) -> str:
    """Hash that identifies a run, wherever it is started from and stored."""
    return _hash(_without(plain, lambda key, _: key in _WHERE_NOT_WHAT))


def settings_hash(plain: Mapping[str, Any]) -> str:
    """Hash that identifies a run up to its seeds: the same for all runs that may be averaged."""
    return _hash(_without(plain, lambda key, _: key in _WHERE_NOT_WHAT or key.rpartition(".")[2] == "seed"))


def _hash(what: Mapping[str, Any]) -> str:
    younger = meant_before(what)
    what = _without(what, lambda key, value: key in younger and value == younger[key])
    return hashlib.sha256(json.dumps(_canonical(what), sort_keys=True).encode()).hexdigest()[:16]


def _canonical(node: Any) -> Any:
    """Reduces to choices and values, with one spelling of each number: 3 and 3.0 are the same configuration.

    The name of our class behind an option is not included, so that classes may move.
    """
    if isinstance(node, Mapping):
        return {
            key: _canonical(value)
            for key, value in node.items()
            if key != "_partial_" and not is_class_of_ours(key, value)
        }
    if isinstance(node, list | tuple):
        return [_canonical(value) for value in node]
    return int(node) if isinstance(node, float) and node.is_integer() else node


def is_class_of_ours(key: str, value: Any) -> bool:
    """Whether an entry, by its dotted key, names one of our classes, which its group's option determines already."""
    return key.rpartition(".")[2] == "_target_" and str(value).partition(".")[0] in OURS


def _without(node: Any, unwanted: Callable[[str, Any], bool], prefix: str = "") -> Any:
    """Copies nested mappings without some of their entries, chosen by dotted key and value."""
    if not isinstance(node, Mapping):
        return node
    kept = {str(key): value for key, value in node.items() if not unwanted(f"{prefix}{key}", value)}
    inside = {key: _without(value, unwanted, f"{prefix}{key}.") for key, value in kept.items()}
    return {key: value for key, value in inside.items() if value != {} or kept[key] == {}}  # not if emptied


def first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The first leaf below `keys` in which two configurations differ, `key: theirs there, ours here`.

    A configuration that is too old to have a key has the value of `meant_before`.
    """
    younger = meant_before(ours)
    mine = dict(leaves({key: ours.get(key) for key in keys}))
    other = dict(leaves({key: theirs.get(key) for key in keys}))
    for key in [*other, *mine]:
        here, there = (values.get(key, younger.get(key)) for values in (mine, other))
        if here != there:
            return f"{key} is {there!r} there, {here!r} here"
    return None
