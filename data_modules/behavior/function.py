"""Behaviours that are user-defined Python functions, for `dof data collect`."""

import hashlib
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import torch
from torch import Tensor

from data_modules.behavior.base import Behavior
from dof_lightning.errors import UserError
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.spec import EnvSpec

Function = Callable[[Tensor, Tensor | None, Tensor], Tensor]


class FunctionPolicy(DecentralizedPolicy):
    """Calls a function with all agents' observations; the function decides whether each agent acts on its own alone.

    Args:
        function: maps observations `[E, N, O]`, legal choices `[E, N, A]` (None if all are) and uniform noise `[E, N,
            A]` in [0, 1) to actions `[E, N, A]` in [-1, 1], or indices `[E, N]`. Values for dimensions that an
            agent does not have are dropped.
        spec: the environment's spec.
    """

    def __init__(self, function: Function, spec: EnvSpec) -> None:
        super().__init__()
        self.function, self.n_agents, self._spec = function, spec.n_agents, spec

    @property
    def acts_alone(self) -> bool:
        """False: whether the agents act alone is not known, so it is not claimed."""
        return False

    def draw_noise(self, n_episodes: int, generator: torch.Generator) -> Tensor:
        """Uniform `[E, N, A]` in [0, 1)."""
        shape = (n_episodes, self.n_agents, self._spec.action_dim)
        return torch.rand(shape, generator=generator, device=generator.device)

    def act_on_noise(self, observations: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        """Calls the function and checks its actions.

        Raises:
            UserError: shape, type or values do not fit this environment.
        """
        actions = torch.as_tensor(self.function(observations, legal, noise))
        discrete = self._spec.action_kind == "discrete"
        sizes = torch.tensor([agent.action_dim for agent in self._spec.agents], device=actions.device)
        shape = noise.shape[:2] if discrete else noise.shape
        if actions.shape != shape or actions.is_floating_point() == discrete:
            wanted = f"integers {list(shape)}" if discrete else f"numbers {list(shape)}"
            raise UserError(f"policy= returned {actions.dtype} {list(actions.shape)}, expected {wanted}")
        if not discrete:  # values beyond an agent's own dimensions are not used
            padding = torch.arange(self._spec.action_dim, device=actions.device) >= sizes[:, None]
            actions = actions.masked_fill(padding, 0.0)
        fitting = (actions >= 0) & (actions < sizes) if discrete else (actions.abs() <= 1).all(-1)
        if not bool(fitting.all()):  # NaN compares false
            agent = self._spec.agents[int((~fitting).nonzero()[0, 1])]
            allowed = f"0 to {agent.action_dim - 1}" if discrete else "-1 to 1"
            raise UserError(f"policy= returned an action of agent {agent.name!r} that is not within {allowed}")
        return (actions if discrete else actions.to(observations.dtype)), carry

    def export(self, agent: int) -> Self:
        """Refuses: a function cannot be exported.

        Raises:
            UserError: always.
        """
        raise UserError("a function acts for all agents at once; there is nothing to export")


@dataclass(frozen=True)
class FunctionBehavior(Behavior):
    """The function `module:name`.

    Args:
        policy: `module:name` of the function; Python must be able to import the module.
        version: version of the function, part of the recipe. The module's own code is part of the recipe, too, but code
            that it imports is not: raise the version when that changes.
    """

    policy: str
    version: int = 1

    name = "function"

    def identity(self, spec: EnvSpec) -> dict[str, Any]:
        """See `Behavior.identity`."""
        return {"name": self.name, "policy": self.policy, "version": self.version, "sha256": self._code()}

    def policies(self, spec: EnvSpec) -> list[DecentralizedPolicy]:
        """See `Behavior.policies`."""
        return [FunctionPolicy(self._load(), spec)]

    def _code(self) -> str | None:
        """The hash of the module's file; None if it has no file."""
        file = getattr(self._module(), "__file__", None)
        return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()

    def _load(self) -> Function:
        name = self.policy.partition(":")[2]
        function = getattr(self._module(), name, None)
        if not callable(function):
            raise UserError(f"policy={self.policy} cannot be imported: there is no function {name!r} in it")
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # of compiled functions nothing is known
            return function
        try:
            signature.bind(None, None, None)
        except TypeError:
            asked = "observations, legal, noise"
            raise UserError(
                f"policy={self.policy} is {name}{signature}, but is called with three arguments: {asked}"
            ) from None
        return function

    def _module(self) -> ModuleType:
        module = self.policy.partition(":")[0]
        try:
            return importlib.import_module(module)
        except (ImportError, ValueError) as error:
            raise UserError(
                f"policy={self.policy} cannot be imported ({error}); write policy=module:function"
            ) from None
