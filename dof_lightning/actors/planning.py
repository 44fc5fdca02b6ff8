"""How agent i acts with DoF-Trajectory: plan its own next observations, then act to reach the first of them."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from dof_lightning.actors.actions import CODECS
from dof_lightning.actors.diffusion import Execution, sample_jointly, sample_locally
from dof_lightning.batch import Window
from dof_lightning.diffusion.guidance import guided_noise
from dof_lightning.diffusion.sampler import Sampler
from dof_lightning.diffusion.seed_conditioning import some_seeds, with_shared_seed
from dof_lightning.factorization.base import Factorization
from dof_lightning.networks.agentwise import Agentwise
from dof_lightning.networks.inverse import InverseDynamics
from dof_lightning.normalization import Normalizer
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.spec import ActionKind

ReturnUpdate = Literal["none", "time", "reward"]


class PlanningActor(DecentralizedPolicy):
    """Agents that diffuse their own window of observations and act by inverse dynamics (method.md section 2).

    Agent i remembers its own last Hh observations; they and the current one are written into its window at every step
    of the chain. Its action is what its inverse dynamics says of (o_t, planned o_{t+1}).

    Args:
        denoiser: eps_i.
        noise_factorization: f, applied to agent i's own noise.
        data_factorization: h, applied to agent i's own window.
        inverse: inverse dynamics.
        normalizer: of the observations that diffuse.
        inverse_normalizer: of the observations that inverse dynamics sees.
        sampler: of the reverse chain.
        window: Hh and H.
        guidance_weight: w of classifier-free guidance, see `guided_noise`.
        target_return: what is asked for at an episode's start, return / returns_scale.
        return_update: how that goes on: `none` asks for the same at each step, `time` for what is left of it if rewards
            come evenly: R_t = R_0 (1 - gamma^(L-t)) / (1 - gamma^L), a function of the agent's own clock; `reward` for
            what the agent's rewards have left of it: R <- (R - r / returns_scale) / gamma. Those are told to the agent
            and may depend on teammates: `observes_rewards`.
        returns_scale: the unit of returns.
        discount: gamma of the returns.
        episode_length: L, steps.
        clip_range: normalised observations are clipped to [-clip_range, clip_range].
        data_mask: `[N, T, O]` bool, False where an agent's window is known or padding.
        action_mask: `[N, A]` bool, False where an agent's action is padding.
        action_kind: `continuous` or `discrete`.
        execution: `decentralized`, or `centralized`: one joint chain through f and h plans all windows together.
        shared_seeds: M; guidance exaggerates the return alone, both of its predictions know the episode's seed.
    """

    # The first estimate of x0 divides by sqrt(alpha_bar_K), the normaliser's inverse and inverse dynamics multiply:
    # over whole episodes of Spread 3e-4 was measured with schedule=cosine and 3e-5 with vp.
    rounding = 1e-3
    has_joint_chain = True  # what the IGD gauge measures
    data_mask: Tensor
    action_mask: Tensor

    def __init__(
        self,
        denoiser: Agentwise,
        noise_factorization: Factorization,
        data_factorization: Factorization,
        inverse: InverseDynamics,
        normalizer: Normalizer,
        inverse_normalizer: Normalizer,
        sampler: Sampler,
        window: Window,
        guidance_weight: float,
        target_return: float,
        return_update: ReturnUpdate,
        returns_scale: float,
        discount: float,
        episode_length: int,
        clip_range: float,
        data_mask: Tensor,
        action_mask: Tensor,
        action_kind: ActionKind,
        execution: Execution = "decentralized",
        shared_seeds: int | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.noise_factorization = noise_factorization
        self.data_factorization = data_factorization
        self.inverse = inverse
        self.normalizer = normalizer
        self.inverse_normalizer = inverse_normalizer
        self.sampler = sampler
        self.history, self.horizon = window.history, window.horizon
        self.guidance_weight = guidance_weight
        self.target_return = target_return
        self.return_update: ReturnUpdate = return_update
        self.observes_rewards = return_update == "reward"
        self.returns_scale = returns_scale
        self.discount = discount
        self.episode_length = episode_length
        self.clip_range = clip_range
        self.register_buffer("data_mask", data_mask, persistent=False)
        self.register_buffer("action_mask", action_mask, persistent=False)
        self.action_kind: ActionKind = action_kind
        self.execution: Execution = execution
        self.shared_seeds = shared_seeds
        self.n_agents = denoiser.n_agents

    @property
    def acts_alone(self) -> bool:
        """Whether agent i needs nothing of the others'."""
        return self.execution == "decentralized"

    def initial_carry(self, n_episodes: int, device: torch.device) -> Any:
        """`time` `[E, N]`, `target` `[E, N]`, `history` `[E, N, Hh, O]`; None where a decision needs none of them."""
        if self.history == 0 and self.return_update == "none" and self.shared_seeds is None:
            return None
        shape = (n_episodes, self.n_agents)
        past = torch.zeros(*shape, self.history, self.data_mask.shape[-1], device=device)
        target = torch.full(shape, self.target_return, device=device)
        return {"time": torch.zeros(shape, dtype=torch.int64, device=device), "target": target, "history": past}

    def draw_noise(self, n_episodes: int, generator: torch.Generator) -> Tensor:
        """Standard normal `[E, N, S, T, O]`, S noises a chain, none where the window is known."""
        shape = (n_episodes, self.n_agents, self.sampler.n_noises, *self.data_mask.shape[1:])
        return torch.randn(shape, generator=generator, device=generator.device) * self.data_mask[:, None]

    def act_on_noise(self, observations: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        """Plans and takes the first step of the plan; see the base class."""
        past = observations.new_zeros(*observations.shape[:2], 0, observations.shape[-1])
        if carry is not None:
            begins = (carry["time"] == 0)[..., None, None]
            past = torch.where(begins, observations[:, :, None], carry["history"])
        seen = torch.cat([past, observations[:, :, None]], dim=2)
        following = self.normalizer.unnormalize(self.plan(seen, self._condition(observations, carry), noise))
        following = following[:, :, self.history + 1]
        scores = self.inverse(*(self.inverse_normalizer.normalize(row) for row in (observations, following)))
        codec = CODECS[self.action_kind]
        scores = scores.clamp(-1.0, 1.0) if self.action_kind == "continuous" else scores
        actions = codec.decode(codec.finish(scores, self.action_mask, legal))
        if carry is not None:
            carry = {**carry, "time": carry["time"] + 1, "history": seen[:, :, 1:]}
        return actions, carry

    def plan(self, seen: Tensor, condition: Tensor, noise: Tensor) -> Tensor:
        """The agents' normalised windows `[E, N, T, O]`.

        Args:
            seen: `[E, N, Hh + 1, O]`, history and current observation.
            condition: `[E, N, 2 + M]`, see `_condition`.
            noise: from `draw_noise`.
        """
        return self._sample(self._known(seen), condition, noise.movedim(2, 0))

    def chain_condition(self, observations: Tensor) -> Tensor:
        """What a chain is given at an episode's first step: observations `[B, N, O]`, and a shared seed, if any."""
        return with_shared_seed(observations, *some_seeds(observations, self.shared_seeds))

    def chain_noise(self, rows: int, generator: torch.Generator) -> Tensor:
        """The noise of B chains, `[S, B, N, T, O]` in float64."""
        shape = (self.sampler.n_noises, rows, *self.data_mask.shape)
        noise = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64)
        return noise * self.data_mask

    def joint_sample(self, condition: Tensor, noise: Tensor) -> Tensor:
        """The windows `[B, N, T, O]` of the centralised chain, on `chain_condition` and `chain_noise`."""
        target, known = self._first_step(condition)
        return self._run(sample_jointly, known, target, noise)

    def local_sample(self, condition: Tensor, noise: Tensor) -> Tensor:
        """The windows `[B, N, T, O]` of every agent's own chain, on `chain_condition` and `chain_noise`.

        Raises:
            TypeError: the agents meet in the denoiser, so none has a chain of its own.
        """
        if not self.denoiser.local_execution:
            raise TypeError(f"{type(self.denoiser).__name__} needs all agents' rows (local_execution is False)")
        target, known = self._first_step(condition)
        return self._run(sample_locally, known, target, noise)

    def joint_prediction(self, x: Tensor, k: Tensor, condition: Tensor) -> Tensor:
        """eps_tot `[B, N, T, O]` as a function of the agents' x^k `[B, N, T, O]`."""
        target, known = self._first_step(condition)

        def joined(parts: Tensor, k: Tensor, condition: Tensor) -> Tensor:
            return self.noise_factorization.join(self.denoiser(parts, k, condition).to(x.dtype), condition)

        return guided_noise(joined, self._pin(x, known), k, target, self.guidance_weight, self.shared_seeds or 0)

    def _sample(self, known: Tensor, condition: Tensor, noise: Tensor) -> Tensor:
        """Windows `[E, N, T, O]`, known where `data_mask` is False, out of noise `[S, E, N, T, O]`."""
        return self._run(sample_locally if self.acts_alone else sample_jointly, known, condition, noise)

    def _run(self, sample: Callable[..., Tensor], known: Tensor, condition: Tensor, noise: Tensor) -> Tensor:
        return sample(
            self.denoiser,
            self.noise_factorization,
            self.data_factorization,
            self.sampler,
            self._clip,
            condition,
            noise,
            pin=partial(self._pin, known=known),
            guidance_weight=self.guidance_weight,
            kept=self.shared_seeds or 0,
        )

    def _clip(self, x: Tensor) -> Tensor:
        return x.clamp(-self.clip_range, self.clip_range)

    def observe_rewards(self, carry: Any, rewards: Tensor) -> Any:
        """Takes what was earned off the target where `return_update=reward`; see the base class."""
        if not self.observes_rewards:
            return carry
        left = (carry["target"] - rewards.to(carry["target"].dtype) / self.returns_scale) / self.discount
        return {**carry, "target": left}

    def export(self, agent: int) -> Self:
        """Agent `agent` alone, with its own parameters only.

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
        """What agent `agent` takes along of a submodule."""
        part: Any = self.get_submodule(name)
        selected: nn.Module = part.select_agent(agent)
        return selected

    def _first_step(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """`_condition` and `_known` where an episode begins: all history is the first observation."""
        size = self.data_mask.shape[-1]
        observations, told = condition[..., :size], condition[..., size:]
        seen = observations[:, :, None].expand(-1, -1, self.history + 1, -1)
        carry = self.initial_carry(len(observations), observations.device)
        if self.shared_seeds is not None:
            carry = {**carry, "shared_seed": told.argmax(-1)}
        return self._condition(observations, carry), self._known(seen)

    def _known(self, seen: Tensor) -> Tensor:
        """`[E, N, T, O]`: normalised history and current observation, zeros after them."""
        known = self.normalizer.normalize(seen)
        ahead = known.new_zeros(*known.shape[:2], self.horizon - 1, known.shape[-1])
        return torch.cat([known, ahead], dim=2)

    def _pin(self, x: Tensor, known: Tensor) -> Tensor:
        return torch.where(self.data_mask, x, known)

    def _condition(self, observations: Tensor, carry: Any) -> Tensor:
        """`[E, N, 2 + M]`: the return that agent i asks for, 1 for 'there is a condition', and the shared seed."""
        target = observations.new_full((*observations.shape[:2], 1), self.target_return)
        if self.return_update == "reward":
            target = carry["target"][..., None].to(target.dtype)
        if self.return_update == "time":
            left = (self.episode_length - carry["time"]).clamp(min=1)
            weights = self.discount ** torch.arange(self.episode_length, device=left.device, dtype=torch.float64)
            share = weights.cumsum(0)[left - 1] / weights.sum()
            target = target * share[..., None].to(target.dtype)
        told = None if carry is None else carry.get("shared_seed")
        return with_shared_seed(torch.cat([target, torch.ones_like(target)], dim=-1), told, self.shared_seeds)
