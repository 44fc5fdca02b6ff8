"""How agent i acts with DoF-Policy: draw candidates from its own chain, keep the one its own critic likes best."""

import copy
from typing import Any, Literal, Self

import torch
from torch import Tensor

from dof_lightning.actors.actions import CODECS
from dof_lightning.diffusion.guidance import ConditionalDenoiser, guided_noise
from dof_lightning.diffusion.sampler import Clip, Sampler
from dof_lightning.diffusion.seed_conditioning import some_seeds, with_shared_seed
from dof_lightning.factorization.base import Factorization
from dof_lightning.networks.critic import AgentwiseCritic
from dof_lightning.networks.mlp import MLPDenoiser
from dof_lightning.normalization import Normalizer
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.spec import ActionKind

Selection = Literal["argmax", "softmax"]
Execution = Literal["decentralized", "centralized"]


class DiffusionActor(DecentralizedPolicy):
    """Agents that diffuse their action given their own observation (reference/method.md section 3, 'Execution').

    Args:
        denoiser: eps_i.
        noise_factorization: f, applied to agent i's own noise.
        data_factorization: h, applied to agent i's own part.
        critic: twin Q_i(o_i, a_i) that rank the candidates, None with one candidate.
        normalizer: of observations.
        sampler: of the reverse chain.
        candidates: M, actions drawn at each decision.
        clip_range: what diffuses is clipped to [-clip_range, clip_range].
        action_mask: `[N, A]` bool, False where an agent's action is padding.
        action_kind: `continuous`, or `discrete`: one-hot vectors diffuse and the largest legal entry is the action.
        selection: among candidates, `argmax` takes the best, `softmax` draws one with probability ~ exp(Q_i / T).
        selection_temperature: T, above 0, in the critic's unit.
        execution: `decentralized`, or `centralized`: one joint chain through f and h, of which all agents take the same
            candidate, the best by sum_i Q_i. No agent can do that alone.
        shared_seeds: M; all candidates of an agent are drawn given the episode's seed, which its critic does not know.
    """

    has_joint_chain = True  # what the IGD gauge measures
    action_mask: Tensor

    def __init__(
        self,
        denoiser: MLPDenoiser,
        noise_factorization: Factorization,
        data_factorization: Factorization,
        critic: AgentwiseCritic | None,
        normalizer: Normalizer,
        sampler: Sampler,
        candidates: int,
        clip_range: float,
        action_mask: Tensor,
        action_kind: ActionKind = "continuous",
        selection: Selection = "argmax",
        selection_temperature: float = 1.0,
        execution: Execution = "decentralized",
        shared_seeds: int | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.noise_factorization = noise_factorization
        self.data_factorization = data_factorization
        self.critic = critic
        self.normalizer = normalizer
        self.sampler = sampler
        self.candidates = candidates
        self.clip_range = clip_range
        self.register_buffer("action_mask", action_mask, persistent=False)
        self.action_kind: ActionKind = action_kind
        self.selection: Selection = selection
        self.selection_temperature = selection_temperature
        self.execution: Execution = execution
        self.shared_seeds = shared_seeds
        self.n_agents = denoiser.n_agents

    @property
    def acts_alone(self) -> bool:
        """Whether agent i needs nothing of the others'."""
        return self.execution == "decentralized"

    def draw_noise(self, n_episodes: int, generator: torch.Generator) -> Tensor:
        """Standard normal `[E, N, M, S, A]`, S noises a chain; one row more where candidates are drawn by softmax."""
        rows = self.sampler.n_noises + self._draws_among_candidates
        shape = (n_episodes, self.n_agents, self.candidates, rows, self.action_mask.shape[1])
        noise = torch.randn(shape, generator=generator, device=generator.device)
        return noise * self.action_mask[:, None, None]

    def act_on_noise(self, observations: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        """One of M candidates by min(Q_i1, Q_i2) of the agent itself; see the base class."""
        codec = CODECS[self.action_kind]
        condition = self.normalizer.normalize(observations)
        repeated = condition.repeat_interleave(self.candidates, dim=0)
        allowed = None if legal is None else legal.repeat_interleave(self.candidates, dim=0)
        chains = noise[..., : self.sampler.n_noises, :].permute(3, 0, 2, 1, 4).flatten(1, 2)
        told = None if carry is None else carry["shared_seed"].repeat_interleave(self.candidates, dim=0)
        seeded = with_shared_seed(repeated, told, self.shared_seeds)
        samples = codec.finish(self._sample(seeded, chains), self.action_mask, allowed)
        if self.critic is None:
            return codec.decode(samples), carry
        values = self.critic(repeated, samples).amin(0).reshape(-1, self.candidates, self.n_agents)
        candidates = samples.unflatten(0, (-1, self.candidates))  # type: ignore[no-untyped-call]
        chosen = self._choose(values, noise)[:, None, :, None].expand(-1, 1, -1, samples.shape[-1])
        return codec.decode(candidates.gather(1, chosen).squeeze(1)), carry

    def export(self, agent: int) -> Self:
        """Agent `agent` alone, with its own parameters only.

        Raises:
            UserError: no agent can act alone.
        """
        self.check_exportable()
        alone = copy.copy(self)
        alone._modules = dict(self._modules)
        for name in ("denoiser", "noise_factorization", "data_factorization", "critic", "normalizer"):
            module: Any = getattr(self, name)
            setattr(alone, name, None if module is None else module.select_agent(agent))
        alone._buffers = {"action_mask": self.action_mask[agent : agent + 1].clone()}
        alone.n_agents = 1
        return alone

    @property
    def _draws_among_candidates(self) -> bool:
        return self.critic is not None and self.selection == "softmax"

    def _choose(self, values: Tensor, noise: Tensor) -> Tensor:
        """Indices `[E, N]` of candidates with values `[E, M, N]`; draws by the Gumbel-max trick."""
        normal = noise[..., -1, 0].transpose(1, 2)
        if not self.acts_alone:  # one candidate of all agents: the joint draw
            values, normal = values.sum(2, keepdim=True).expand_as(values), normal[..., :1]
        if self._draws_among_candidates:
            gumbel = -torch.log(-torch.special.log_ndtr(normal))
            values = values / self.selection_temperature + gumbel
        return values.argmax(1)

    def _sample(self, condition: Tensor, noise: Tensor) -> Tensor:
        return self.local_sample(condition, noise) if self.acts_alone else self.joint_sample(condition, noise)

    def joint_sample(self, condition: Tensor, noise: Tensor) -> Tensor:
        """x_tot^0 `[B, N, A]` of the centralised chain on `chain_noise`, whether it is the one that acts or not."""
        parts = (self.denoiser, self.noise_factorization, self.data_factorization)
        return self._clip(sample_jointly(*parts, self.sampler, self._clip, condition, noise))

    def local_sample(self, condition: Tensor, noise: Tensor) -> Tensor:
        """x_i^0 `[B, N, A]` of every agent's own chain; TypeError where f, h or the denoiser has no local form."""
        if not self.denoiser.local_execution:
            raise TypeError(f"{type(self.denoiser).__name__} needs all agents' rows (local_execution is False)")
        parts = (self.denoiser, self.noise_factorization, self.data_factorization)
        return self._clip(sample_locally(*parts, self.sampler, self._clip, condition, noise))

    def chain_condition(self, observations: Tensor) -> Tensor:
        """What a chain is given, `[B, N, C]`, at observations `[B, N, O]`; each row has another shared seed, if any."""
        return with_shared_seed(self.normalizer.normalize(observations), *some_seeds(observations, self.shared_seeds))

    def joint_prediction(self, x: Tensor, k: Tensor, condition: Tensor) -> Tensor:
        """eps_tot `[B, N, A]` as a function of the agents' x^k `[B, N, A]`."""
        return self.noise_factorization.join(self.denoiser(x, k, condition).to(x.dtype), condition)

    def chain_noise(self, rows: int, generator: torch.Generator) -> Tensor:
        """The noise of B chains, `[S, B, N, A]` in float64."""
        shape = (self.sampler.n_noises, rows, *self.action_mask.shape)
        noise = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64)
        return noise * self.action_mask

    def _clip(self, x: Tensor) -> Tensor:
        return x.clamp(-self.clip_range, self.clip_range) * self.action_mask


def sample_locally(
    denoiser: ConditionalDenoiser,
    noise_factorization: Factorization,
    data_factorization: Factorization,
    sampler: Sampler,
    clip: Clip,
    condition: Tensor,
    noise: Tensor,
    pin: Clip = lambda x: x,
    guidance_weight: float = 1.0,
    kept: int = 0,
) -> Tensor:
    """One reverse chain an agent, then h on its own x_i^0 (seed, Theorems 1 and 2: concat and wconcat cancel).

    Args:
        denoiser: the bank of per-agent denoisers.
        noise_factorization: f, applied to agent i's own noise.
        data_factorization: h, applied to agent i's own data.
        sampler: how the chain steps.
        clip: keeps the estimates of x_i^0 in range.
        condition: `[B, N, C]`.
        noise: `[S, B, N, ...]`, S = `sampler.n_noises`.
        pin: writes what is known of x_i^0 over it, before every step and at the end (in-painting).
        guidance_weight: w of classifier-free guidance, see `guided_noise`; 1 means none.
        kept: how many of the last entries of the condition guidance leaves alone.

    Returns:
        x_i^0 `[B, N, ...]`.
    """

    def own(x: Tensor, k: Tensor, condition: Tensor) -> Tensor:
        return noise_factorization.local(denoiser(x, k, condition))

    def predict(x: Tensor, k: Tensor) -> Tensor:
        return guided_noise(own, pin(x), k, condition, guidance_weight, kept).to(x.dtype)

    sampled = sampler.sample(predict, noise, lambda x0: pin(clip(x0)))
    return pin(data_factorization.local(sampled))


def sample_jointly(
    denoiser: ConditionalDenoiser,
    noise_factorization: Factorization,
    data_factorization: Factorization,
    sampler: Sampler,
    clip: Clip,
    condition: Tensor,
    noise: Tensor,
    pin: Clip = lambda x: x,
    guidance_weight: float = 1.0,
    kept: int = 0,
) -> Tensor:
    """The centralised chain: its state is x_tot^k, its noise f(eps), its data h(x^0); arguments as `sample_locally`.

    Guidance mixes the joint predictions with and without a condition, so that f joins what it has joined in training.
    """
    f = noise_factorization

    def clip_jointly(joint: Tensor) -> Tensor:
        return f.as_state(pin(clip(f.as_parts(joint))))

    def joined(parts: Tensor, k: Tensor, condition: Tensor) -> Tensor:
        return f.join(denoiser(parts, k, condition).to(parts.dtype), condition)

    def predict(joint: Tensor, k: Tensor) -> Tensor:
        return guided_noise(joined, pin(f.as_parts(joint)), k, condition, guidance_weight, kept)

    joint_noise = torch.stack([f.as_state(draw) for draw in noise])
    parts = f.as_parts(sampler.sample(predict, joint_noise, clip_jointly))
    return pin(data_factorization.join(parts, condition))
