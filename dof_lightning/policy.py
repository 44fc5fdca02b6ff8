"""The contract of trained policies: N agents that act at once, each from its own history and noise."""

import copy
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from dof_lightning.errors import UserError

Execution = Literal["decentralized", "centralized"]


class DecentralizedPolicy(nn.Module, ABC):
    """N agents that act at once, each from its own history and its own noise only.

    Everything is batched over episodes E and agents N. Row i of every result depends only on row i of the observations,
    the carry, the legal actions and the noise, and on agent i's parameters. `certify` in `rollout/certificate.py`
    measures this.

    Attributes:
        n_agents: N.
        execution: `decentralized`, or `centralized`: the agents act as one.
        whole_parts: names of the submodules of which every exported agent takes a whole copy.
        observes_rewards: agents receive their rewards (see `observe_rewards`), which may depend on what teammates do:
            scores report this, and such agents are not exported.
        shared_seeds: M: the agents act on a common random seed z in 0..M-1, drawn before the episode and given to all
            of them (docs/method/shared_seed.md); scores report this. None if they do not.
        rounding: how far float32 rounding may carry an action when the same decision is computed in another batch.
    """

    whole_parts: ClassVar[tuple[str, ...]] = ()
    n_agents: int
    execution: Execution = "decentralized"
    observes_rewards: bool = False
    shared_seeds: int | None = None
    rounding: float = 1e-5

    @property
    def acts_alone(self) -> bool:
        """False if the agents act as one (execution=centralized); such scores are labelled wherever they appear."""
        return self.execution == "decentralized"

    def initial_carry(self, n_episodes: int, device: torch.device) -> Any:
        """The agents' memory at the start of E episodes: nested dicts of `[E, N, ...]`, or None."""
        return None

    def draw_shared_seed(self, n_episodes: int, generator: torch.Generator) -> Tensor | None:
        """Seeds z `[E]` int64, uniform in 0..M-1, for all agents of an episode; None without shared seeds."""
        if self.shared_seeds is None:
            return None
        return torch.randint(self.shared_seeds, (n_episodes,), generator=generator, device=generator.device)

    def begin(self, n_episodes: int, device: torch.device, shared_seed: Tensor | None) -> Any:
        """The agents' memory at the start of E episodes, including each agent's own copy of the common seed.

        Args:
            n_episodes: E.
            device: the device on which the agents act.
            shared_seed: from `draw_shared_seed`.

        Raises:
            ValueError: the agents act on a common seed and none is given.
        """
        carry = self.initial_carry(n_episodes, device)
        if self.shared_seeds is None:
            return carry
        if shared_seed is None:
            raise ValueError(f"these agents act on a shared seed, one of {self.shared_seeds} an episode; give it")
        per_agent = shared_seed.to(device)[:, None].repeat(1, self.n_agents)
        return {**(carry or {}), "shared_seed": per_agent}

    @abstractmethod
    def draw_noise(self, n_episodes: int, generator: torch.Generator) -> Tensor:
        """The randomness of one decision of every agent: `[E, N, ...]`, independent between agents."""

    @abstractmethod
    def act_on_noise(self, observations: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        """Chooses all agents' actions, as a function without hidden randomness.

        Args:
            observations: `[E, N, O]`.
            carry: the agents' memory, from `begin` or the last decision.
            legal: `[E, N, A]` bool or None.
            noise: `[E, N, ...]` from `draw_noise`.

        Returns:
            actions `[E, N, A]` in [-1, 1] (`[E, N]` int64 for discrete actions), and the new carry.
        """

    def observe_rewards(self, carry: Any, rewards: Tensor) -> Any:
        """The agents' memory after they have received the rewards of their last actions.

        Args:
            carry: the memory that the decision returned.
            rewards: `[E, N]`; agent i may read its own only.
        """
        return carry

    def act(
        self, observations: Tensor, carry: Any, legal: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Any]:
        """Draws the noise of one decision and chooses the actions (see `act_on_noise`)."""
        noise = self.draw_noise(observations.shape[0], generator)
        return self.act_on_noise(observations, carry, legal, noise)

    def check_exportable(self) -> None:
        """Refuses to export agents that only act together.

        Raises:
            UserError: no agent can act alone.
        """
        if not self.acts_alone:
            raise UserError("execution=centralized: no agent acts alone, there is nothing to export")

    def export(self, agent: int) -> Self:
        """The policy of one agent (N = 1) holding that agent's parameters only; a copy.

        Each submodule either selects the agent's part (`select_agent`) or is among `whole_parts`; buffers have one row
        per agent.

        Raises:
            UserError: no agent can act alone.
        """
        self.check_exportable()
        alone = copy.copy(self)
        alone._modules = {name: self._part_of(agent, name) for name in self._modules}
        alone._buffers = {name: self.get_buffer(name)[agent : agent + 1].clone() for name in self._buffers}
        alone.n_agents = 1
        return alone

    def _part_of(self, agent: int, name: str) -> nn.Module:
        part: Any = self.get_submodule(name)
        selected: nn.Module = copy.deepcopy(part) if name in self.whole_parts else part.select_agent(agent)
        return selected


class AskingPolicy(DecentralizedPolicy):
    """Agents that act towards a desired return, kept as `target` `[E, N]` in their memory.

    Attributes:
        returns_scale: the unit of returns.
        discount: gamma of the returns.
    """

    returns_scale: float
    discount: float

    def observe_rewards(self, carry: Any, rewards: Tensor) -> Any:
        """Subtracts the rewards from the target if agents receive them: R <- (R - r / returns_scale) / gamma."""
        if not self.observes_rewards:
            return carry
        left = (carry["target"] - rewards.to(carry["target"].dtype) / self.returns_scale) / self.discount
        return {**carry, "target": left}
