"""Actors of DoF-Policy: agent i draws candidates from its own chain and keeps the one its own critic rates best."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dof_lightning.actors.actions import CODECS
from dof_lightning.diffusion.chain import Chain, as_it_is, check_runs_locally
from dof_lightning.diffusion.sampler import Clip, Sampler
from dof_lightning.diffusion.seed_conditioning import SharedSeeds
from dof_lightning.factorization.base import Factorization
from dof_lightning.networks.agentwise import Agentwise
from dof_lightning.networks.critic import AgentwiseCritic
from dof_lightning.normalization import Normalizer
from dof_lightning.policy import DecentralizedPolicy, Execution
from dof_lightning.spec import ActionKind

Selection = Literal["argmax", "softmax"]


@dataclass(frozen=True, kw_only=True)
class ActingModel:
    """The networks and settings by which trained agents diffuse.

    Attributes:
        denoiser: eps_i.
        noise_factorization: f, applied to agent i's own noise.
        data_factorization: h, applied to agent i's own part.
        sampler: the sampler of the reverse chain.
        clip_range: data estimates are clipped to [-clip_range, clip_range].
        guidance_weight: w of classifier-free guidance, see `guided_noise`; 1 means none.
        execution: `decentralized`, or `centralized`: one joint chain through f and h, which no agent can run alone.
        shared_seeds: M; agents diffuse given the episode's shared seed.
    """

    denoiser: Agentwise
    noise_factorization: Factorization
    data_factorization: Factorization
    sampler: Sampler
    clip_range: float = 1.0
    guidance_weight: float = 1.0
    execution: Execution = "decentralized"
    shared_seeds: int | None = None


@dataclass(frozen=True)
class Ranking:
    """The way an agent chooses among the actions that it drew.

    Attributes:
        candidates: M, number of actions drawn at each decision.
        selection: `argmax` takes the best, `softmax` draws one with probability ~ exp(Q_i / T).
        selection_temperature: T, above 0, in the critic's unit.
        given_seed: whether the critic also receives the episode's shared seed.
    """

    candidates: int = 1
    selection: Selection = "argmax"
    selection_temperature: float = 1.0
    given_seed: bool = False


class ChainActor(DecentralizedPolicy):
    """Agents that run reverse chains.

    Args:
        model: the model that the chains run through.
    """

    has_joint_chain = True  # used by the IGD gauge
    guidance_weight: float = 1.0

    def __init__(self, model: ActingModel) -> None:
        super().__init__()
        self.denoiser = model.denoiser
        self.noise_factorization = model.noise_factorization
        self.data_factorization = model.data_factorization
        self.sampler = model.sampler
        self.clip_range = model.clip_range
        self.execution = model.execution
        self.shared_seeds = model.shared_seeds
        self.n_agents = model.denoiser.n_agents

    @property
    def _seeds(self) -> SharedSeeds:
        return SharedSeeds(self.shared_seeds)

    def _chain(self, pin: Clip = as_it_is) -> Chain:
        # Built anew each time, because agents are exported with its parts, by name.
        return Chain(
            denoiser=self.denoiser,
            noise_factorization=self.noise_factorization,
            data_factorization=self.data_factorization,
            sampler=self.sampler,
            clip=self._clip,
            pin=pin,
            guidance_weight=self.guidance_weight,
            kept=self._seeds.width,
        )

    def _rated(self, critic: AgentwiseCritic, condition: Tensor, samples: Tensor, candidates: int) -> Tensor:
        """Values `[E, M, N]` of M candidates: min(Q_i1, Q_i2) of each agent, or the sum of all if they act as one.

        Args:
            critic: the critic of each agent.
            condition: `[E * M, N, C]`, the critic's conditioning.
            samples: `[E * M, N, A]`, the M candidates of an episode one after another.
            candidates: M.
        """
        values: Tensor = critic(condition, samples).amin(0).reshape(-1, candidates, self.n_agents)
        return values if self.acts_alone else values.sum(2, keepdim=True).expand_as(values)

    @abstractmethod
    def _clip(self, x: Tensor) -> Tensor:
        """Keeps estimates of the data in range."""


def taken(samples: Tensor, chosen: Tensor, candidates: int) -> Tensor:
    """Selects the candidates `[E, N, A]` with indices `[E, N]` from M candidates one after another `[E * M, N, A]`."""
    # Reshaped by M and not by E: an exported program takes any number of episodes.
    each = samples.reshape(-1, candidates, *samples.shape[1:])
    return each.gather(1, chosen[:, None, :, None].expand(-1, 1, -1, samples.shape[-1])).squeeze(1)


class DiffusionActor(ChainActor):
    """Agents that diffuse their action given their own observation (Li et al., 2025: DoF-Policy).

    If they act as one, all agents take the same candidate, the best by sum_i Q_i. With shared seeds, all candidates
    of an agent are drawn given the episode's seed.

    Args:
        model: the model that actions are drawn from.
        critic: twin Q_i(o_i, a_i) that rank the candidates, None with one candidate.
        normalizer: the normaliser of observations.
        action_mask: `[N, A]` bool, False for padding.
        action_kind: `continuous`, or `discrete`: one-hot vectors diffuse and the largest legal entry is the action.
        ranking: the way candidates are ranked.
    """

    action_mask: Tensor
    critic_given_seed: bool = False  # of agents exported before critics could receive it

    def __init__(
        self,
        model: ActingModel,
        critic: AgentwiseCritic | None,
        normalizer: Normalizer,
        action_mask: Tensor,
        action_kind: ActionKind,
        ranking: Ranking,
    ) -> None:
        super().__init__(model)
        self.critic = critic
        self.normalizer = normalizer
        self.register_buffer("action_mask", action_mask, persistent=False)
        self.action_kind: ActionKind = action_kind
        self.candidates = ranking.candidates
        self.selection: Selection = ranking.selection
        self.selection_temperature = ranking.selection_temperature
        self.critic_given_seed = ranking.given_seed

    def draw_noise(self, n_episodes: int, generator: torch.Generator) -> Tensor:
        """Standard normal `[E, N, M, S, A]`, S noises per chain; one more row if candidates are drawn by softmax."""
        rows = self.sampler.n_noises + self._draws_among_candidates
        shape = (n_episodes, self.n_agents, self.candidates, rows, self.action_mask.shape[1])
        noise = torch.randn(shape, generator=generator, device=generator.device)
        return noise * self.action_mask[:, None, None]

    def act_on_noise(self, observations: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        """Chooses one of M candidates by the agent's own min(Q_i1, Q_i2); see the base class."""
        codec = CODECS[self.action_kind]
        condition = self.normalizer.normalize(observations)
        seeded = self._seeds.tell_remembered(condition, carry)
        seeded = seeded.repeat_interleave(self.candidates, dim=0)
        allowed = None if legal is None else legal.repeat_interleave(self.candidates, dim=0)
        chains = noise[..., : self.sampler.n_noises, :].permute(3, 0, 2, 1, 4).flatten(1, 2)
        samples = codec.finish(self._sample(seeded, chains), self.action_mask, allowed)
        if self.critic is None:
            return codec.decode(samples), carry
        own = seeded if self.critic_given_seed else seeded[..., : condition.shape[-1]]
        values = self._rated(self.critic, own, samples, self.candidates)
        return codec.decode(taken(samples, self._choose(values, noise), self.candidates)), carry

    @property
    def _draws_among_candidates(self) -> bool:
        return self.critic is not None and self.selection == "softmax"

    def _choose(self, values: Tensor, noise: Tensor) -> Tensor:
        """Indices `[E, N]` of candidates with values `[E, M, N]`; draws by the Gumbel-max trick."""
        if self._draws_among_candidates:
            normal = noise[..., -1, 0].transpose(1, 2)
            normal = normal if self.acts_alone else normal[..., :1]  # one candidate for all agents: the joint draw
            gumbel = -torch.log(-torch.special.log_ndtr(normal))
            values = values / self.selection_temperature + gumbel
        return values.argmax(1)

    def _sample(self, condition: Tensor, noise: Tensor) -> Tensor:
        return self.local_sample(condition, noise) if self.acts_alone else self.joint_sample(condition, noise)

    def joint_sample(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Samples x_tot^0 `[B, N, A]` by the centralised chain on `chain_noise`, whether or not this chain acts."""
        return self._clip(self._chain().jointly(condition, noise))

    def local_sample(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Samples x_i^0 `[B, N, A]` by each agent's own chain; TypeError if f, h or the denoiser has no local form."""
        check_runs_locally(self.denoiser)
        return self._clip(self._chain().locally(condition, noise))

    def chain_condition(self, observations: Tensor) -> Tensor:
        """A chain's condition `[B, N, C]` at observations `[B, N, O]`; each row has a different shared seed, if any."""
        return self._seeds.tell_some(self.normalizer.normalize(observations))

    def joint_prediction(self, x: Tensor, k: Tensor, condition: Tensor) -> Tensor:
        """eps_tot `[B, N, A]` as a function of the agents' x^k `[B, N, A]`."""
        return self._chain().joint_noise(x, k, condition)

    def chain_noise(self, rows: int, generator: torch.Generator) -> Tensor:
        """The noise of B chains, `[S, B, N, A]` in float64."""
        shape = (self.sampler.n_noises, rows, *self.action_mask.shape)
        noise = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64)
        return noise * self.action_mask

    def _clip(self, x: Tensor) -> Tensor:
        return x.clamp(-self.clip_range, self.clip_range) * self.action_mask
