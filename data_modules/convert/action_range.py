"""The units of a source's continuous actions: as the source declares or the user specifies, never guessed."""

from typing import Any

import numpy as np

from data_modules.convert.base import EpisodeSource
from data_modules.storage.action_units import AS_THEY_ARE, OURS, ActionUnits, units_of
from dof_lightning.errors import UserError
from dof_lightning.spec import EnvSpec

OPTION = "action_range"
ENVIRONMENT, SOURCE, MEASURED = "env", "source", "measured"


def choose_units(source: EpisodeSource, environment: EnvSpec | None, typed: Any = None) -> ActionUnits:
    """Chooses the range of actions that becomes [-1, 1].

    Args:
        source: the source of the actions; read in full only if its range has to be measured.
        environment: the environment of the episodes; None if none is given, and nothing will be rolled out.
        typed: `[lowest, highest]`; `env`, the environment's own range; `source`, the range that the source declares;
            `measured`, from the smallest to the largest value of each dimension; None if nothing was typed.

    Raises:
        UserError: the typed value is none of these or not available here, or nothing was typed and the range that is
            declared or observed differs from the environment's, so that the numbers may mean something else.
    """
    if source.layout.action_kind == "discrete":
        if typed is not None:
            raise UserError(f"{OPTION}={typed}: {source.location} has discrete actions, without a range; leave it out")
        return OURS
    if typed is not None:
        return _said(source, environment, typed)
    if environment is None:
        return OURS if source.declared is None else source.declared
    theirs = units_of(environment)
    if source.declared is not None:
        if not source.declared.is_ours and not _same(source.declared, theirs):
            raise UserError(_unclear(source, environment, "declares actions in", source.declared))
        return source.declared
    if theirs.equals(OURS):
        return OURS
    observed = observe(source)
    if OURS.covers(observed) and not theirs.covers(observed):
        return OURS
    raise UserError(_unclear(source, environment, "declares no range and holds actions in", observed))


def observe(source: EpisodeSource) -> ActionUnits:
    """Finds the smallest and largest value per agent and dimension, in one pass over all episodes."""
    ends: list[tuple[np.ndarray, np.ndarray]] = []
    before, source.units = source.units, AS_THEY_ARE
    for rows in source.blocks(0):
        ends.append((rows.actions.min(axis=0), rows.actions.max(axis=0)))
    source.units = before
    low, high = (np.stack(part) for part in zip(*ends, strict=True))
    return ActionUnits.of(low.min(axis=0), high.max(axis=0))


def _said(source: EpisodeSource, environment: EnvSpec | None, typed: Any) -> ActionUnits:
    if typed == MEASURED:
        return observe(source)
    if typed == ENVIRONMENT:
        if environment is None:
            raise UserError(f"{OPTION}={typed}: name the environment (env=) whose range is meant")
        return units_of(environment)
    if typed == SOURCE:
        if source.declared is None:
            raise UserError(f"{OPTION}={typed}: {source.location} declares no range; set {OPTION}=[<lowest>,<highest>]")
        return source.declared
    numbers = isinstance(typed, list | tuple) and len(typed) == 2 and all(type(n) in (int, float) for n in typed)
    if not numbers or not typed[0] < typed[1]:
        raise UserError(
            f"{OPTION}={typed} must be two numbers, [<lowest>,<highest>], or {ENVIRONMENT}, {SOURCE} or {MEASURED}"
        )
    return ActionUnits.of(*typed)


def _same(declared: ActionUnits, theirs: ActionUnits) -> bool:
    fits = len(declared.low) in (1, len(theirs.low)) or len(theirs.low) == 1
    return fits and declared.equals(theirs)


def _unclear(source: EpisodeSource, environment: EnvSpec, found: str, units: ActionUnits) -> str:
    theirs = units_of(environment)
    has, acts = f"{found} {units}", f"acts in {theirs}"
    if str(units) == str(theirs):  # the team's outermost numbers agree, so another dimension's may be what differs
        ours, asked = (part.for_agents(environment.agents) for part in (units, theirs))
        for agent, entry in np.argwhere((ours.low != asked.low) | (ours.high != asked.high))[:1]:
            said, wanted = (f"[{part.low[agent, entry]:g}, {part.high[agent, entry]:g}]" for part in (ours, asked))
            has = f"{found} {said} in dimension {entry} of agent {environment.agents[agent].name!r}"
            acts = f"acts in {wanted} there"
    return (
        f"{source.location} {has}, env={environment.name} {acts}; specify what the numbers mean: "
        f"{OPTION}={ENVIRONMENT} (they are in the environment's units), {OPTION}=[<lowest>,<highest>] (these are its "
        f"lowest and highest action), {OPTION}=[-1,1] (they were mapped to -1 to 1 before)"
    )
