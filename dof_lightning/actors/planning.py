"""How agent i acts with DoF-Trajectory: plan its own next observations, then act to reach the first of them."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from dof_lightning.actors.actions import CODECS
from dof_lightning.actors.diffusion import ActingModel, ChainActor, taken
from dof_lightning.batch import Window
from dof_lightning.diffusion.chain import check_runs_locally
from dof_lightning.networks.critic import AgentwiseCritic
from dof_lightning.networks.inverse import InverseDynamics
from dof_lightning.normalization import Normalizer
from dof_lightning.policy import AskingPolicy
from dof_lightning.spec import ActionKind

ReturnUpdate = Literal["none", "time", "reward"]


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What planning agents remember and ask for.

    Attributes:
        window: Hh and H.
        target_return: what is asked for at an episode's start, return / returns_scale.
        return_update: how that goes on: `none` asks for the same at each step, `time` for what is left of it if rewards
            come evenly: R_t = R_0 (1 - gamma^(L-t)) / (1 - gamma^L), a function of the agent's own clock; `reward` for
            what the agent's rewards have left of it, see `AskingPolicy`. Those are told to the agent and may depend on
            teammates: `observes_rewards`.
        returns_scale: the unit of returns.
        discount: gamma of the returns.
        episode_length: L, steps.
    """

    window: Window
    target_return: float
    return_update: ReturnUpdate
    returns_scale: float
    discount: float
    episode_length: int


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """How an agent finds the action that a plan begins with, and the plan whose action it takes.

    Attributes:
        inverse: inverse dynamics.
        normalizer: of the observations that inverse dynamics and critics see.
        candidates: M, plans drawn at each decision.
        critic: twin Q_i(o_i, a_i) that rank the plans by their first action; None with one candidate.
    """

    inverse: InverseDynamics
    normalizer: Normalizer
    candidates: int = 1
    critic: AgentwiseCritic | None = None


class PlanningActor(ChainActor, AskingPolicy):
    """Agents that diffuse their own window of observations and act by inverse dynamics: DoF-Trajectory.

    Agent i remembers its own last Hh observations; they and the current one are written into its window at every step
    of the chain. Its action is what its inverse dynamics says of (o_t, planned o_{t+1}). Of several plans it takes the
    one whose action its own critic rates highest; where the agents act as one, the best by sum_i Q_i for all of them.

    Args:
        model: what windows are drawn from; guidance exaggerates the return alone, both of its predictions know the
            episode's seed, if agents share one.
        beginning: how plans become actions, and are ranked.
        normalizer: of the observations that diffuse.
        data_mask: `[N, T, O]` bool, False where an agent's window is known or padding.
        action_mask: `[N, A]` bool, False where an agent's action is padding.
        action_kind: `continuous` or `discrete`.
        asking: how much history agents remember, and which return they ask for.
    """

    # The first estimate of x0 divides by sqrt(alpha_bar_K), the normaliser's inverse and inverse dynamics multiply:
    # over whole episodes of Spread 3e-4 was measured with schedule=cosine and 3e-5 with vp.
    rounding = 1e-3
    data_mask: Tensor
    action_mask: Tensor
    candidates: int = 1  # of agents that were exported before plans were ranked; they have no critic

    def __init__(
        self,
        model: ActingModel,
        beginning: Beginning,
        normalizer: Normalizer,
        data_mask: Tensor,
        action_mask: Tensor,
        action_kind: ActionKind,
        asking: Asking,
    ) -> None:
        super().__init__(model)
        self.inverse = beginning.inverse
        self.normalizer = normalizer
        self.inverse_normalizer = beginning.normalizer
        self.critic = beginning.critic
        self.candidates = beginning.candidates
        self.register_buffer("data_mask", data_mask, persistent=False)
        self.register_buffer("action_mask", action_mask, persistent=False)
        self.action_kind: ActionKind = action_kind
        self.guidance_weight = model.guidance_weight
        self.history, self.horizon = asking.window.history, asking.window.horizon
        self.target_return = asking.target_return
        self.return_update: ReturnUpdate = asking.return_update
        self.observes_rewards = asking.return_update == "reward"
        self.returns_scale = asking.returns_scale
        self.discount = asking.discount
        self.episode_length = asking.episode_length

    def initial_carry(self, n_episodes: int, device: torch.device) -> Any:
        """`time` `[E, N]`, `target` `[E, N]`, `history` `[E, N, Hh, O]`; None where a decision needs none of them."""
        if self.history == 0 and self.return_update == "none" and self.shared_seeds is None:
            return None
        shape = (n_episodes, self.n_agents)
        past = torch.zeros(*shape, self.history, self.data_mask.shape[-1], device=device)
        target = torch.full(shape, self.target_return, device=device)
        return {"time": torch.zeros(shape, dtype=torch.int64, device=device), "target": target, "history": past}

    def draw_noise(self, n_episodes: int, generator: torch.Generator) -> Tensor:
        """Standard normal `[E, N, S, T, O]`, S noises a chain, none where the window is known; with M plans
        `[E, N, M, S, T, O]`.
        """
        return self._drawn(n_episodes, self.data_mask, generator)

    def _drawn(self, n_episodes: int, mask: Tensor, generator: torch.Generator) -> Tensor:
        """Standard normal `[E, *mask.shape]`, with S noises a chain, and M plans if there are several, behind N."""
        draws = (self.sampler.n_noises,) if self.candidates == 1 else (self.candidates, self.sampler.n_noises)
        shape = (n_episodes, self.n_agents, *draws, *mask.shape[1:])
        noise = torch.randn(shape, generator=generator, device=generator.device)
        return noise * mask.reshape(self.n_agents, *(1 for _ in draws), *mask.shape[1:])

    def act_on_noise(self, observations: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        """Plans and takes the first step of the plan; see the base class."""
        past = observations.new_zeros(*observations.shape[:2], 0, observations.shape[-1])
        if carry is not None:
            begins = (carry["time"] == 0)[..., None, None]
            past = torch.where(begins, observations[:, :, None], carry["history"])
        seen = torch.cat([past, observations[:, :, None]], dim=2)
        condition = self._condition(observations, carry)
        if self.candidates == 1:
            actions = self._first(self.plan(seen, condition, noise), observations, legal)
        else:
            actions = self._best_first(seen, condition, legal, noise)
        actions = CODECS[self.action_kind].decode(actions)
        if carry is not None:
            carry = {**carry, "time": carry["time"] + 1, "history": seen[:, :, 1:]}
        return actions, carry

    def _first(self, plan: Tensor, observations: Tensor, legal: Tensor | None) -> Tensor:
        """The actions `[E, N, A]` that plans begin with, encoded."""
        following = self.normalizer.unnormalize(plan)[:, :, self.history + 1]
        scores = self.inverse(*(self.inverse_normalizer.normalize(row) for row in (observations, following)))
        scores = scores.clamp(-1.0, 1.0) if self.action_kind == "continuous" else scores
        return CODECS[self.action_kind].finish(scores, self.action_mask, legal)

    def _best_first(self, seen: Tensor, condition: Tensor, legal: Tensor | None, noise: Tensor) -> Tensor:
        """The first actions `[E, N, A]` of the plans that rank highest; arguments as `plan`."""
        times = self.candidates
        seen, condition = (x.repeat_interleave(times, dim=0) for x in (seen, condition))
        allowed = None if legal is None else legal.repeat_interleave(times, dim=0)
        observations = seen[:, :, self.history]
        samples = self._first(self.plan(seen, condition, noise.movedim(2, 1).flatten(0, 1)), observations, allowed)
        assert self.critic is not None
        values = self._rated(self.critic, self.inverse_normalizer.normalize(observations), samples, times)
        return taken(samples, values.argmax(1), times)

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
        return self._seeds.tell_some(observations)

    def chain_noise(self, rows: int, generator: torch.Generator) -> Tensor:
        """The noise of B chains, `[S, B, N, T, O]` in float64."""
        shape = (self.sampler.n_noises, rows, *self.data_mask.shape)
        noise = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64)
        return noise * self.data_mask

    def joint_sample(self, condition: Tensor, noise: Tensor) -> Tensor:
        """The windows `[B, N, T, O]` of the centralised chain, on `chain_condition` and `chain_noise`."""
        target, known = self._first_step(condition)
        return self._chain(partial(self._pin, known=known)).jointly(target, noise)

    def local_sample(self, condition: Tensor, noise: Tensor) -> Tensor:
        """The windows `[B, N, T, O]` of every agent's own chain, on `chain_condition` and `chain_noise`.

        Raises:
            TypeError: the agents meet in the denoiser, so none has a chain of its own.
        """
        check_runs_locally(self.denoiser)
        target, known = self._first_step(condition)
        return self._chain(partial(self._pin, known=known)).locally(target, noise)

    def joint_prediction(self, x: Tensor, k: Tensor, condition: Tensor) -> Tensor:
        """eps_tot `[B, N, T, O]` as a function of the agents' x^k `[B, N, T, O]`."""
        target, known = self._first_step(condition)
        return self._chain(partial(self._pin, known=known)).joint_noise(x, k, target)

    def _sample(self, known: Tensor, condition: Tensor, noise: Tensor) -> Tensor:
        """Windows `[E, N, T, O]`, known where `data_mask` is False, out of noise `[S, E, N, T, O]`."""
        chain = self._chain(partial(self._pin, known=known))
        return (chain.locally if self.acts_alone else chain.jointly)(condition, noise)

    def _clip(self, x: Tensor) -> Tensor:
        return x.clamp(-self.clip_range, self.clip_range)

    def _first_step(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """`_condition` and `_known` where an episode begins: all history is the first observation."""
        size = self.data_mask.shape[-1]
        observations = condition[..., :size]
        seen = observations[:, :, None].expand(-1, -1, self.history + 1, -1)
        carry = self.begin(len(observations), observations.device, self._seeds.told(condition))
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
        return self._seeds.tell_remembered(torch.cat([target, torch.ones_like(target)], dim=-1), carry)
