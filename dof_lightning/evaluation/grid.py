"""Sweeps: one checkpoint evaluated with several values of settings, as in `sampler.steps=[1,2,5]`."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dof_lightning.checkpoints.checkpoint import Checkpoint
from dof_lightning.checkpoints.overrides import override, parse
from dof_lightning.config.command_line import split_tail
from dof_lightning.config.identity import leaves
from dof_lightning.errors import UserError
from dof_lightning.evaluation.score import DECISION_REPETITIONS, Score, build_policy, first_decision, score
from dof_lightning.evaluation.timing import interleaved


@dataclass(frozen=True)
class Variant:
    """One combination of the listed values.

    Attributes:
        settings: the listed keys and their values.
        config: the configuration that is evaluated.
    """

    settings: dict[str, Any]
    config: dict[str, Any]

    @property
    def sampler_steps(self) -> int:
        """Number of steps of the reverse chain; all K if none is specified."""
        return self.config["sampler"]["steps"] or self.config["schedule"]["steps"]


@dataclass(frozen=True)
class Result:
    """The score of one variant, and the time of its decisions.

    Attributes:
        variant: the variant that was evaluated.
        score: its score on the report seeds.
        decision_ms: milliseconds of one decision of all agents in one episode, the fastest of interleaved repetitions,
            which other jobs disturb least; comparable only on this machine, with the other results of the same call.
    """

    variant: Variant
    score: Score
    decision_ms: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for printing."""
        return {"settings": self.variant.settings, **self.score.to_dict(), "decision_ms": self.decision_ms}


def listed(stored: Mapping[str, Any], tails: Sequence[str]) -> list[str]:
    """The keys that are set to a list although a checkpoint's configuration has no list there."""
    values = dict(leaves(stored))
    pairs = [split_tail(tail) for tail in tails]
    return [key for key, text in pairs if text.lstrip().startswith("[") and not isinstance(values.get(key), list)]


def expand(stored: dict[str, Any], tails: Sequence[str]) -> list[Variant]:
    """Makes a variant of every combination of the listed values; the last list varies fastest.

    Args:
        stored: a checkpoint's configuration; not changed.
        tails: `key=value`, or `key=[value,value]`.

    Raises:
        UserError: as in `override`, or a list is empty, names a value twice, or contains anything but values.
    """
    keys = listed(stored, tails)
    pairs = [split_tail(tail) for tail in tails]
    lists = {key: _values(key, text) for key, text in pairs if key in keys}
    single = [f"{key}={text}" for key, text in pairs if key not in keys]
    variants = []
    for values in itertools.product(*lists.values()):
        settings = dict(zip(lists, values, strict=True))
        typed = [f"{key}={_text(value)}" for key, value in settings.items()]
        variants.append(Variant(settings, override(stored, [*single, *typed])))
    return variants


def measure(checkpoint: Checkpoint, variants: Sequence[Variant]) -> list[Result]:
    """Evaluates every variant as in `dof eval`, and times their decisions side by side.

    All variants are built before any is rolled out, so one that cannot be built is refused at once.

    Raises:
        UserError: see `evaluate`.
    """
    built = [build_policy(checkpoint, variant.config) for variant in variants]
    decisions = {index: first_decision(policy, env) for index, (policy, env) in enumerate(built)}
    seconds = interleaved(decisions, DECISION_REPETITIONS)
    return [
        Result(variant, score(policy, env, variant.config), 1e3 * min(seconds[index]))
        for index, (variant, (policy, env)) in enumerate(zip(variants, built, strict=True))
    ]


def _values(key: str, text: str) -> list[Any]:
    values = parse(key, text)
    if not isinstance(values, list) or not values or any(isinstance(value, (list, dict)) for value in values):
        raise UserError(f"{key}={text} must be a list of values: {key}=[<value>,<value>]")
    twice = next((value for index, value in enumerate(values) if value in values[:index]), None)
    if twice is not None or values.count(None) > 1:
        raise UserError(f"{key}={text} names {_text(twice)} twice; name it once")
    return values


def _text(value: Any) -> str:
    """Formats a value as it is typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
