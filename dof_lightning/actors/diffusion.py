"""How agent i acts with DoF-Policy: draw candidates from its own chain, keep the one its own critic likes best."""

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn

from dof_lightning.diffusion.sampler import Sampler
from dof_lightning.factorization.base import Factorization
from dof_lightning.networks.critic import AgentwiseCritic
from dof_lightning.networks.mlp import MLPDenoiser
from dof_lightning.normalization import Normalizer
from dof_lightning.policy import DecentralizedPolicy


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
        clip_range: actions are clipped to [-clip_range, clip_range].
        action_mask: `[N, A]` bool, False where an agent's action is padding.
    """

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
        self.n_agents = denoiser.n_agents

    def draw_noise(self, n_episodes: int, generator: torch.Generator) -> Tensor:
        """Standard normal `[E, N, M, S, A]`, S noises a chain."""
        shape = (n_episodes, self.n_agents, self.candidates, self.sampler.n_noises, self.action_mask.shape[1])
        noise = torch.randn(shape, generator=generator, device=generator.device)
        return noise * self.action_mask[:, None, None]

    def act_on_noise(self, observations: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        """The best of M candidates by min(Q_i1, Q_i2) of the agent itself; see the base class."""
        condition = self.normalizer.normalize(observations)
        repeated = condition.repeat_interleave(self.candidates, dim=0)
        chains = noise.permute(3, 0, 2, 1, 4).flatten(1, 2)
        samples = self._sample(repeated, chains)
        if self.critic is None:
            return samples, carry
        values = self.critic(repeated, samples).amin(0).reshape(-1, self.candidates, self.n_agents)
        candidates = samples.unflatten(0, (-1, self.candidates))  # type: ignore[no-untyped-call]
        best = values.argmax(1)[:, None, :, None].expand(-1, 1, -1, samples.shape[-1])
        return candidates.gather(1, best).squeeze(1), carry

    def export(self, agent: int) -> Self:
        """Agent `agent` alone, with its own parameters only."""
        alone = copy.copy(self)
        alone._modules = dict(self._modules)
        for name in ("denoiser", "noise_factorization", "data_factorization", "critic", "normalizer"):
            module: Any = getattr(self, name)
            setattr(alone, name, None if module is None else module.select_agent(agent))
        alone._buffers = {"action_mask": self.action_mask[agent : agent + 1].clone()}
        alone.n_agents = 1
        return alone

    def _sample(self, condition: Tensor, noise: Tensor) -> Tensor:
        samples = sample_locally(
            self.denoiser,
            self.noise_factorization,
            self.data_factorization,
            self.sampler,
            self.clip_range,
            condition,
            noise,
        )
        return samples.clamp(-self.clip_range, self.clip_range)


def sample_locally(
    denoiser: nn.Module,
    noise_factorization: Factorization,
    data_factorization: Factorization,
    sampler: Sampler,
    clip_range: float,
    condition: Tensor,
    noise: Tensor,
) -> Tensor:
    """One reverse chain an agent, then h on its own x_i^0 (seed, Theorems 1 and 2: concat and wconcat cancel).

    Args:
        denoiser: the bank of per-agent denoisers.
        noise_factorization: f, applied to agent i's own noise.
        data_factorization: h, applied to agent i's own data.
        sampler: how the chain steps.
        clip_range: x_i^0 estimates are clipped to [-clip_range, clip_range].
        condition: `[B, N, C]`.
        noise: `[S, B, N, ...]`, S = `sampler.n_noises`.

    Returns:
        x_i^0 `[B, N, ...]`.
    """

    def clip(x: Tensor) -> Tensor:
        return x.clamp(-clip_range, clip_range)

    def predict(x: Tensor, k: Tensor) -> Tensor:
        prediction: Tensor = noise_factorization.local(denoiser(x, k, condition))
        return prediction.to(x.dtype)

    return data_factorization.local(sampler.sample(predict, noise, clip))
