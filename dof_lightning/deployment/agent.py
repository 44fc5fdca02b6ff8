"""One agent, loaded from its files, that acts alone."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from dof_lightning.deployment.decision import Decision, own_noise, told_seed
from dof_lightning.deployment.record import AGAIN, find_record, read_record, weights_path
from dof_lightning.deployment.structure import rebuild
from dof_lightning.deployment.world_units import WorldUnits
from dof_lightning.errors import UserError
from dof_lightning.policy import DecentralizedPolicy

ArrayT = TypeVar("ArrayT", np.ndarray, Tensor)


class Agent:
    """One agent that acts on its own observations.

    Args:
        record: the json beside its weights.
        policy: the policy of this agent alone (N = 1).

    Attributes:
        record: the json beside its weights.
        name: the agent's name in the environment.
        index: its index in the team, which sets its stream of noise apart from the others'.
        observation_dim: O_i.
        action_dim: A_i: dimensions of a continuous action, or the number of discrete choices.
        action_kind: `continuous` or `discrete` (an index).
        units: conversion from [-1, 1], or indices from 0, to the world's actions; None if these are the same or
            unknown.
        decision: its decision function, a `torch.nn.Module`.
    """

    def __init__(self, record: Mapping[str, Any], policy: DecentralizedPolicy) -> None:
        about = record["agent"]
        self.record = record
        self.name: str = about["name"]
        self.index: int = about["index"]
        self.observation_dim: int = about["observation_dim"]
        self.action_dim: int = about["action_dim"]
        self.action_kind: str = about["action_kind"]
        self.decision = Decision(
            policy,
            about["padded_observation_dim"] - self.observation_dim,
            about["padded_action_dim"] - self.action_dim,
            self.action_dim if self.action_kind == "continuous" else None,
        ).eval()
        units = about.get("action_units")
        self.units = None if units is None else WorldUnits(units, self.action_dim)
        self._seed: int | None = None
        self._step = 0
        self._n_episodes: int | None = None
        self._carry: Any = None

    def to(self, device: torch.device | str) -> "Agent":
        """Moves the agent to a device; its noise is drawn there, and differs between kinds of devices."""
        for module in (self.decision, self.units):
            if module is not None:
                module.to(device)
        return self

    def reset(self, seed: int) -> None:
        """Starts an episode (or a batch of them): the agent's memory is cleared, and its noise starts anew.

        Args:
            seed: seed of the noise, 0 or more; agents of one team may have the same seed, their noise is independent.
                Agents that act on a shared seed must have the same seed, from which each derives the shared one.

        Raises:
            UserError: the seed is negative or no integer.
        """
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise UserError(f"{self.name}: seed={seed} must be an integer, 0 or more")
        seed = int(seed)
        self._seed, self._step, self._n_episodes, self._carry = seed, 0, None, None

    def act(self, observation: ArrayT, legal: ArrayT | None = None) -> ArrayT:
        """Acts in the units of its world, on noise of its own: a function of (seed, agent, step), see `own_noise`.

        Args:
            observation: `[O_i]`, or `[E, O_i]` of E episodes played at once.
            legal: `[A_i]` or `[E, A_i]` bool, the legal discrete choices; None if all are legal.

        Returns:
            an array or a tensor, like the observation: `[A_i]` or `[E, A_i]` within the range of the world's action
            space (flattened); the number of a choice if actions are discrete.

        Raises:
            UserError: `reset` was not called, or the observation has another shape or is not finite.
        """
        return self.to_world(self.decide(observation, legal))

    def decide(self, observation: ArrayT, legal: ArrayT | None = None) -> ArrayT:
        """Acts as in `act`, but in [-1, 1], or an index from 0, as our own environments take (`VectorEnv.step`)."""
        if self._seed is None:
            raise UserError(f"{self.name}: call reset(seed) before the first act()")
        self._check_kind(observation)
        n_episodes = 1 if observation.ndim == 1 else len(observation)
        noise = own_noise(self.decision.policy, n_episodes, self._seed, self.index, self._step)[:, 0]
        return self._decide(observation, noise if observation.ndim > 1 else noise[0], legal)

    def to_world(self, decision: ArrayT) -> ArrayT:
        """Converts a decision `[A_i]` or `[E, A_i]` in [-1, 1], or indices from 0, to the units of the world."""
        if self.units is None:
            return decision
        if isinstance(decision, np.ndarray):
            return self.units(torch.from_numpy(decision)).numpy()
        return self.units(decision)

    def _check_kind(self, observation: object) -> None:
        if not isinstance(observation, (np.ndarray, Tensor)):
            raise UserError(
                f"{self.name}: observation must be a numpy array or a torch tensor, got {type(observation)}"
            )

    def act_on_noise(self, observation: ArrayT, noise: Tensor, legal: ArrayT | None = None) -> ArrayT:
        """Acts as in `act`, on given noise, `[...]` or `[E, ...]` (its shape is the record's `noise_shape`)."""
        self._check_kind(observation)
        return self.to_world(self._decide(observation, noise, legal))

    def _decide(self, observation: ArrayT, noise: Tensor, legal: ArrayT | None) -> ArrayT:
        seen = self._tensor("observation", observation, self.observation_dim).to(torch.float32)
        allowed = None if legal is None else self._tensor("legal", legal, self.action_dim).to(torch.bool)
        self._check(seen, allowed, noise if observation.ndim > 1 else noise[None])
        if self._n_episodes is None:
            self._n_episodes = len(seen)
            self._carry = self._begin(len(seen), seen.device)
        with torch.no_grad():
            noise = noise.to(seen.device).reshape(len(seen), *self.record["noise_shape"])
            action, self._carry = self.decision(seen, self._carry, allowed, noise)
        self._step += 1
        action = action if observation.ndim > 1 else action[0]
        return action.cpu().numpy() if isinstance(observation, np.ndarray) else action.to(observation.device)

    def _begin(self, n_episodes: int, device: torch.device) -> Any:
        policy = self.decision.policy
        if policy.shared_seeds is None:
            return policy.initial_carry(n_episodes, device)
        if self._seed is None:
            raise UserError(
                f"{self.name} acts on a seed shared by its team: first call reset(seed) with the same seed for all"
            )
        return policy.begin(n_episodes, device, told_seed(policy, n_episodes, self._seed))

    def _tensor(self, field: str, given: np.ndarray | Tensor, width: int) -> Tensor:
        """Checks an input and returns it as `[E, width]` on the agent's device."""
        if isinstance(given, np.ndarray):  # views from back to front and foreign byte orders are no tensors
            given = np.ascontiguousarray(given, given.dtype.newbyteorder("="))
        tensor = torch.as_tensor(given)
        if tensor.ndim not in (1, 2) or tensor.shape[-1] != width:
            raise UserError(
                f"{self.name}: {field} must be [{width}], or [episodes, {width}] for a batch, got {list(tensor.shape)}"
            )
        device = next(self.decision.parameters(), torch.empty(0)).device
        return (tensor if tensor.ndim == 2 else tensor[None]).to(device)

    def _check(self, seen: Tensor, legal: Tensor | None, noise: Tensor) -> None:
        if not seen.isfinite().all():
            raise UserError(f"{self.name}: observation contains values that are not finite (NaN or infinity)")
        wanted = [len(seen), *self.record["noise_shape"]]
        if list(noise.shape) != wanted:
            raise UserError(f"{self.name}: noise must be {wanted}, got {list(noise.shape)}")
        if legal is not None and (len(legal) != len(seen) or not legal.any(-1).all()):
            raise UserError(f"{self.name}: legal must have one row per observation, each with a legal choice")
        if self._n_episodes not in (None, len(seen)):
            raise UserError(
                f"{self.name}: began with {self._n_episodes} episodes, got {len(seen)} observations; "
                "call reset(seed) to begin new ones"
            )


def load_agent(path: str | Path, device: torch.device | str = "cpu", agent: int | str | None = None) -> Agent:
    """Reads an agent that `dof export` wrote, or one that is shipped with this package.

    An agent is two files, `<name>.json` and the weights in `<name>.safetensors` beside it.

    Nothing in the files is run: the weights are plain tensors, and the json names classes of this project.

    Args:
        path: the json; or a folder that `dof export` wrote; or the name of a shipped team, as `mpe_spread_expert`
            (docs/guide/deploy.md lists them). A file or folder of that name has priority over a shipped team.
        device: the device on which the agent acts.
        agent: index or name in the team, for a folder or a name of a team; None means index 0.

    Raises:
        UserError: a file is missing, damaged, or of another format, or there is no such agent; the message names it.
    """
    path = find_record(path, agent)
    record, is_sealed = read_record(path)
    weights = weights_path(path)
    if not weights.is_file():
        raise UserError(f"{weights} does not exist; an agent is two files, keep them side by side")
    content = weights.read_bytes()
    try:
        if hashlib.sha256(content).hexdigest() != record["weights_sha256"]:
            raise UserError(f"{weights} is damaged or from another export: its sha256 is not the one in {path.name}")
        policy = rebuild(record["structure"], safetensors.torch.load(content))
        if not isinstance(policy, DecentralizedPolicy):
            raise UserError("structure: the outermost class is not a policy")
        if not is_sealed:
            _try(Agent(record, policy))
        return Agent(record, policy).to(device)
    except UserError as error:
        raise error if str(weights) in str(error) else UserError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {type(error).__name__} {error}; {AGAIN}") from error


def _try(agent: Agent) -> None:
    """Lets the agent decide once: without a digest, nothing else checks the types of its values.

    Raises:
        ValueError: it cannot decide, or its decision is not an action.
    """
    agent.reset(0)
    try:
        action = agent.act(torch.zeros(agent.observation_dim))
    except Exception as error:  # a value of a wrong type fails in many ways, inside the policy
        raise ValueError(f"it cannot decide ({type(error).__name__}: {' '.join(str(error).split())[:120]})") from error
    if list(action.shape) != [agent.action_dim] * (agent.action_kind == "continuous") or not action.isfinite().all():
        raise ValueError(f"its decision is not an action of {agent.action_dim} {agent.action_kind} dimensions")
