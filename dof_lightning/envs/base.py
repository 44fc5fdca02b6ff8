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
    """What a step tells besides rewards.

    Attributes:
        legal: `[E, N, A]` bool, legal discrete actions at the new observation; None where all are.
        state: `[E, S]` float32, the new global state; None where there is none.
        alive: `[E, N]` bool; None where agents never die.
        won: `[E]` bool, battles won at this step; None where there is nothing to win.
        extra_observations: `[E, M, O']`, the observations of agents that are not learned (prey), padded with zeros.
        extra_actions: `[E, M, A']`, the actions those agents took in this step.
        extra_rewards: `[E, M]`.
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
    law: Tensor | None = None  # of a game: probabilities of the joint outcomes in its data, one dimension an agent
    episodes_at_once = 500  # at most; a constant, as a collector draws the noise of a dataset for so many at a time

    @abstractmethod
    def reset(self, seeds: Tensor) -> Tensor:
        """Starts new episodes.

        Args:
            seeds: `[E]` int64.

        Returns:
            observations `[E, N, O]` float32.
        """

    def reset_like(self, observations: Tensor) -> Tensor | None:
        """Starts episodes in the states in which agents see so much `[E, N, O]`.

        Returns:
            what they see then `[E, N, O]`; None where states cannot be read off observations, and nothing was started.
        """
        return None

    @abstractmethod
    def step(self, actions: Tensor) -> StepResult:
        """Moves every episode on by one step.

        Args:
            actions: `[E, N, A]` float32 in [-1, 1] (clipped), or `[E, N]` int64 for discrete actions.

        Raises:
            ValueError: the shape is not `[E, N, A]`, or a value is not finite.
        """

    def render(self, index: int) -> np.ndarray:
        """A picture of episode `index` now: `[height, width, 3]` uint8; needs no display.

        Raises:
            RuntimeError: there is none to draw (`can_render`), or no episode is running.
        """
        raise RuntimeError(f"env={self.spec.name} cannot draw")

    @property
    def missing(self) -> str | None:
        """What has to be installed before episodes can be played, in one line; None: nothing.

        The spec is there without it, so that one can train on data of the environment (`rollout=none`).
        """
        return None

    def check_available(self) -> None:
        """Refuses to play where something is missing.

        Raises:
            UserError: says what to install, and that training needs none of it.
        """
        if self.missing is not None:
            raise UserError(f"env={self.spec.name} cannot be played: {self.missing}; to train without: rollout=none")

    @property
    def can_render(self) -> bool:
        """Whether `render` can draw."""
        return type(self).render is not VectorEnv.render

    @property
    def legal(self) -> Tensor | None:
        """`[E, N, A]` bool, legal discrete actions now; None where all are."""
        return None

    @property
    def state(self) -> Tensor | None:
        """`[E, S]` float32, the global state now; None where there is none."""
        return None

    @property
    def extra_observations(self) -> Tensor | None:
        """`[E, M, O']`, what agents that are not learned (prey) see now; None where there are none."""
        return None


def check_continuous(actions: Tensor, expected: tuple[int, ...]) -> None:
    """Refuses actions that are no finite numbers of the shape `[E, N, A]`.

    Raises:
        ValueError: they are not.
    """
    if tuple(actions.shape) != expected:
        raise ValueError(f"actions have shape {tuple(actions.shape)}, expected [E, N, A] = {expected}")
    # A finite sum means finite terms: one reduction, and a second look only where the sum is not.
    if not math.isfinite(float(actions.sum())) and not bool(actions.isfinite().all()):
        raise ValueError("actions hold a value that is not finite")


def check_discrete(actions: Tensor, expected: tuple[int, ...]) -> None:
    """Refuses actions that are no integers of the shape `[E, N]`; whether they are choices is another matter.

    Raises:
        ValueError: they are not.
    """
    if tuple(actions.shape) != expected or actions.is_floating_point():
        found = f"{tuple(actions.shape)} {actions.dtype}"
        raise ValueError(f"discrete actions have shape and type {found}, expected integers [E, N] = {expected}")
