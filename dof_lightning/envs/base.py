"""The contract of a batched multi-agent environment."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dof_lightning.errors import UserError
from dof_lightning.spec import EnvSpec


@dataclass(frozen=True)
class StepInfo:
    """The results of a step besides observations, rewards and ends.

    Attributes:
        legal: `[E, N, A]` bool, legal discrete actions at the new observation; None if all are.
        state: `[E, S]` float32, the new global state; None if there is none.
        alive: `[E, N]` bool; None if agents never die.
        won: `[E]` bool, battles won at this step; None if there are no battles.
        extra_observations: `[E, M, O']`, the observations of agents that are not learned (prey), padded with zeros.
        extra_actions: `[E, M, A']`, the actions that those agents took in this step.
        extra_rewards: `[E, M]`, the rewards of those agents.
    """

    legal: Tensor | None = None
    state: Tensor | None = None
    alive: Tensor | None = None
    won: Tensor | None = None
    extra_observations: Tensor | None = None
    extra_actions: Tensor | None = None
    extra_rewards: Tensor | None = None


@dataclass(frozen=True)
class StepResult:
    """One step of E environments.

    Attributes:
        observations: `[E, N, O]` float32, the observation *after* the step, also of episodes that just ended.
        rewards: `[E, N]` float32.
        terminated: `[E]` bool.
        truncated: `[E]` bool, the time limit was reached.
        info: see `StepInfo`.
    """

    observations: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    info: StepInfo


class VectorEnv(ABC):
    """E copies of one environment stepped together. There is no auto-reset: the caller stops at the end.

    E is the number of seeds given to `reset`. Episode e is a function of `seeds[e]` and its own actions only, so a
    batch of episodes equals the same episodes run one by one.
    """

    spec: EnvSpec
    has_random_start = True  # False: every episode starts with the same observations, whatever its seed
    law: Tensor | None = None  # in games: probabilities of the data's joint outcomes, one dimension per agent
    episodes_at_once = 500  # a constant, because collectors draw noise for this many episodes at a time

    @abstractmethod
    def reset(self, seeds: Tensor) -> Tensor:
        """Starts new episodes.

        Args:
            seeds: `[E]` int64.

        Returns:
            observations `[E, N, O]` float32.
        """

    def reset_like(self, observations: Tensor) -> Tensor | None:
        """Starts episodes in the states that have the given observations `[E, N, O]`.

        Returns:
            the new observations, `[E, N, O]`; None, without a start, if states cannot be inferred from observations.
        """
        return None

    @abstractmethod
    def step(self, actions: Tensor) -> StepResult:
        """Advances every episode by one step.

        Args:
            actions: `[E, N, A]` float32 in [-1, 1] (clipped), or `[E, N]` int64 for discrete actions.

        Raises:
            ValueError: the shape is not `[E, N, A]`, or a value is not finite.
        """

    def render(self, index: int) -> np.ndarray:
        """Draws the current state of episode `index`: `[height, width, 3]` uint8; needs no display.

        Raises:
            RuntimeError: the environment cannot draw (`can_render`), or no episode is running.
        """
        raise RuntimeError(f"env={self.spec.name} cannot draw")

    @property
    def is_foreign(self) -> bool:
        """Whether users bring the environment's code, so that an episode is played before anything is trained."""
        return not type(self).__module__.startswith("dof_lightning.")

    @property
    def missing(self) -> str | None:
        """The packages that must be installed before episodes can be played, in one line; None if nothing is missing.

        The spec is available without them, so that the environment's data can be trained on (`rollout=none`).
        """
        return None

    def check_available(self) -> None:
        """Refuses to play if something is missing.

        Raises:
            UserError: names what to install, and adds that training does not need it.
        """
        if self.missing is not None:
            raise UserError(f"env={self.spec.name} cannot be played: {self.missing}; to train without it: rollout=none")

    @property
    def can_render(self) -> bool:
        """Whether `render` can draw."""
        return type(self).render is not VectorEnv.render

    @property
    def legal(self) -> Tensor | None:
        """`[E, N, A]` bool, current legal discrete actions; None if all are."""
        return None

    @property
    def state(self) -> Tensor | None:
        """`[E, S]` float32, the current global state; None if there is none."""
        return None

    @property
    def extra_observations(self) -> Tensor | None:
        """`[E, M, O']`, current observations of agents that are not learned (prey); None without any."""
        return None


def check_continuous(actions: Tensor, expected: tuple[int, ...]) -> None:
    """Refuses actions that are not finite numbers of the shape `[E, N, A]`.

    Raises:
        ValueError: they are not.
    """
    if tuple(actions.shape) != expected:
        raise ValueError(f"actions have shape {tuple(actions.shape)}, expected [E, N, A] = {expected}")
    # A finite sum means finite terms: one reduction, and an exact check only if the sum is not finite.
    if not math.isfinite(float(actions.sum())) and not bool(actions.isfinite().all()):
        raise ValueError("actions contain a value that is not finite")


def check_discrete(actions: Tensor, expected: tuple[int, ...]) -> None:
    """Refuses actions that are not integers of the shape `[E, N]`; whether they are choices is not checked.

    Raises:
        ValueError: they are not.
    """
    if tuple(actions.shape) != expected or actions.is_floating_point():
        found = f"{tuple(actions.shape)} {actions.dtype}"
        raise ValueError(f"discrete actions have shape and type {found}, expected integers [E, N] = {expected}")
