"""Checks of an environment's results before they are counted, stored or learned from."""

import math
from collections.abc import Mapping
from typing import NoReturn

import torch
from torch import Tensor

from dof_lightning.envs.base import StepResult
from dof_lightning.errors import UserError
from dof_lightning.spec import EnvSpec

_WHAT = {"observations": "observation", "state": "global state"}  # names for messages about a number


def check_reset(spec: EnvSpec, seeds: Tensor, observations: Tensor, state: Tensor | None, legal: Tensor | None) -> None:
    """Refuses the first row of E episodes if it contradicts the spec.

    Args:
        spec: the environment's spec.
        seeds: `[E]`, for the message.
        observations: should be `[E, N, O]`, finite.
        state: should be `[E, S]`, finite, or None.
        legal: should be `[E, N, A]`, or None.

    Raises:
        UserError: it contradicts the spec; the message names environment, agent, step and seed.
    """
    running = torch.ones(len(seeds), dtype=torch.bool, device=observations.device)
    _check(spec, seeds, 0, running, {"observations": observations, "state": state, "legal": legal})


def check_step(spec: EnvSpec, seeds: Tensor, step: int, running: Tensor, actions: Tensor, result: StepResult) -> None:
    """Refuses a step of E episodes if it contradicts the spec.

    Args:
        spec: the environment's spec.
        seeds: `[E]`, for the message.
        step: number of steps done, including this one.
        running: `[E]` bool, the episodes that had not ended before; results of the others are not checked.
        actions: `[E, N, ...]`, the actions taken; a NaN among them may explain one in the results.
        result: the environment's result.

    Raises:
        UserError: it contradicts the spec; the message names environment, agent, step and seed.
    """
    for name in ("terminated", "truncated"):
        _check_shape(spec, step, name, getattr(result, name), (len(seeds),))
    info = result.info
    arrays = {"observations": result.observations, "rewards": result.rewards, "state": info.state}
    arrays |= {"legal": info.legal, "alive": info.alive}
    _check(spec, seeds, step, running, arrays, actions)


def refuse(environment: str, agent: str | None, step: int, what: str) -> NoReturn:
    """Raises a one-line error that names the environment, the agent, the step and the defect.

    Args:
        environment: the environment's name.
        agent: the agent concerned; None means all agents.
        step: the episode's step; 0 is the reset.
        what: the defect, and the expected value.

    Raises:
        UserError: always.
    """
    whose = "" if agent is None else f", agent {agent!r}"
    when = f"at step {step}" if step else "at reset"
    raise UserError(f"env={environment}{whose}, {when}: {what}")


def _check(
    spec: EnvSpec,
    seeds: Tensor,
    step: int,
    running: Tensor,
    arrays: Mapping[str, Tensor | None],
    actions: Tensor | None = None,
) -> None:
    given = {name: tensor for name, tensor in arrays.items() if tensor is not None}
    shapes = {
        "observations": (len(seeds), spec.n_agents, spec.observation_dim),
        "rewards": (len(seeds), spec.n_agents),
        "state": (len(seeds), spec.state_dim),
        "legal": (len(seeds), spec.n_agents, spec.action_dim),
        "alive": (len(seeds), spec.n_agents),
    }
    for name, tensor in given.items():
        _check_shape(spec, step, name, tensor, shapes[name])
    given = {name: tensor for name, tensor in given.items() if tensor.is_floating_point()}
    # A finite sum means finite terms: one transfer from the device, and a second one only if the sum is not finite.
    if math.isfinite(float(sum(tensor.sum() for tensor in given.values()))):
        return
    if actions is not None:
        running = running & actions.isfinite().flatten(1).all(1)
    for name, tensor in given.items():
        wrong = ~tensor.isfinite() & running.to(tensor.device).view(-1, *[1] * (tensor.dim() - 1))
        if bool(wrong.any()):
            place = wrong.nonzero()[0].tolist()
            agent = None if name == "state" else spec.agents[place[1]].name
            number = f"number {place[-1]} of the {_WHAT[name]}" if name in _WHAT else "the reward"
            what = f"{number} is {float(tensor[tuple(place)])} (episode with seed {int(seeds[place[0]])})"
            refuse(spec.name, agent, step, f"{what}; the environment must return finite numbers")


def _check_shape(spec: EnvSpec, step: int, name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != expected:
        refuse(spec.name, None, step, f"{name} has shape {list(tensor.shape)}, the spec requires {list(expected)}")
