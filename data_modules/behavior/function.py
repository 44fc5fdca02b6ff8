"""A policy of yours, as a Python function, that collects a dataset: `dof data collect`."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from data_modules.behavior.base import Behavior
from dof_lightning.errors import UserError
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.spec import EnvSpec

Function = Callable[[Tensor, Tensor | None, Tensor], Tensor]


class FunctionPolicy(DecentralizedPolicy):
    """Calls a function with what all agents see; whether each acts alone is the function's affair.

    Args:
        function: from observations `[E, N, O]`, legal choices `[E, N, A]` (None where all are) and uniform noise
            `[E, N, A]` in [0, 1) to actions `[E, N, A]` in [-1, 1], or indices `[E, N]`.
        spec: the environment's.
    """

    def __init__(self, function: Function, spec: EnvSpec) -> None:
        super().__init__()
        self.function, self.n_agents, self._spec = function, spec.n_agents, spec

    @property
    def acts_alone(self) -> bool:
        """Not known, so not claimed."""
        return False

    def draw_noise(self, n_episodes: int, generator: torch.Generator) -> Tensor:
        """Uniform `[E, N, A]` in [0, 1)."""
        shape = (n_episodes, self.n_agents, self._spec.action_dim)
        return torch.rand(shape, generator=generator, device=generator.device)

    def act_on_noise(self, observations: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        """The function's actions.

        Raises:
            UserError: they are not what this environment understands.
        """
        actions = torch.as_tensor(self.function(observations, legal, noise))
        discrete = self._spec.action_kind == "discrete"
        shape = noise.shape[:2] if discrete else noise.shape
        if actions.shape != shape or actions.is_floating_point() == discrete:
            wanted = f"integers {list(shape)}" if discrete else f"numbers {list(shape)}"
            raise UserError(f"policy= returned {actions.dtype} {list(actions.shape)}, {self._spec.name} wants {wanted}")
        n_choices = self._spec.action_dim
        fitting = (actions >= 0) & (actions < n_choices) if discrete else actions.abs() <= 1
        if not bool(fitting.all()):  # NaN compares false
            allowed = f"0 to {n_choices - 1}" if discrete else "-1 to 1"
            raise UserError(f"policy= returned an action that is not within {allowed}")
        return (actions if discrete else actions.to(observations.dtype)), carry

    def export(self, agent: int) -> Self:
        """Impossible.

        Raises:
            UserError: always.
        """
        raise UserError("a function acts for all agents at once; there is nothing to export")


@dataclass(frozen=True)
class FunctionBehavior(Behavior):
    """The function `module:name`.

    Args:
        policy: where it is; Python must be able to import the module.
        version: of the function, for the recipe: change it when the function changes.
    """

    policy: str
    version: int = 1

    name = "function"

    def identity(self, spec: EnvSpec) -> dict[str, Any]:
        """See `Behavior.identity`."""
        return {"name": self.name, "policy": self.policy, "version": self.version}

    def policies(self, spec: EnvSpec) -> list[DecentralizedPolicy]:
        """See `Behavior.policies`."""
        return [FunctionPolicy(self._load(), spec)]

    def _load(self) -> Function:
        module, _, name = self.policy.partition(":")
        try:
            function = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(
                f"policy={self.policy} cannot be imported ({error}); write policy=module:function"
            ) from None
        if not callable(function):
            raise UserError(f"policy={self.policy} is no function")
        return function
