"""The IGD gauge: is the joint law that was trained the product of the agents' laws (reference/method.md, section 1)?"""

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from dof_lightning.envs.base import VectorEnv
from dof_lightning.errors import UserError
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.rollout import evaluation_seeds
from dof_lightning.seeding import make_generator

P_VALUE_LIMIT = 1e-3
PATHWISE_LIMIT = 1e-10


@dataclass(frozen=True)
class Gauge:
    """What was measured, in float64.

    Attributes:
        jacobian_ratio: largest |d eps_tot,i / d x_j|, j != i, over |d eps_tot,i / d x_i|, at all k of the sampler.
        pathwise_error: max |joint chain - agents' own chains| on the same noise; None where there are no own chains.
        energy_distance: between joint draws and their product (each agent's part from another draw), squared.
        p_value: of it, by permutation.
        control_p_value: the same for joint draws against joint draws; small in 1 of 1000 seeds.
        passed: no agent sees another's x, paths agree, and the p-value is above 1e-3.
    """

    jacobian_ratio: float
    pathwise_error: float | None
    energy_distance: float
    p_value: float
    control_p_value: float
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """For printing."""
        return asdict(self)


def gauge(policy: DecentralizedPolicy, env: VectorEnv, seed: int, conditions: int = 4, draws: int = 1024) -> Gauge:
    """Measures a policy at observations of its world's first step.

    Raises:
        UserError: it does not diffuse with a joint chain.
    """
    if not hasattr(policy, "joint_sample"):
        raise UserError("dof igd measures diffusion policies with f and h; this algorithm has no joint chain")
    observations = env.reset(evaluation_seeds(seed, "selection", conditions))
    device = next(policy.parameters()).device
    return gauge_at(policy, observations.to(device), seed, draws)


@torch.no_grad()
def gauge_at(policy: Any, observations: Tensor, seed: int, draws: int = 1024, permutations: int = 2000) -> Gauge:
    """Measures at fixed observations `[C, N, O]`; see `Gauge`.

    Args:
        policy: a `DiffusionActor`; left as it is.
        observations: C conditionings.
        seed: of all draws.
        draws: joint draws of a sample, for each conditioning.
        permutations: of the two samples' labels; at least 1000, or no p-value could be below 1e-3.
    """
    policy = copy.deepcopy(policy).double().eval()
    generator = make_generator(seed, "igd", device=observations.device)
    condition = policy.normalizer.normalize(observations.double()).repeat_interleave(draws, dim=0)

    def sample() -> Tensor:
        """`[C, draws, N, A]`."""
        x: Tensor = policy.joint_sample(condition, policy.chain_noise(len(condition), generator))
        return x.reshape(len(observations), draws, *x.shape[1:])

    first, second, third = sample(), sample(), sample()
    product = product_draws(third, generator)
    distance, p_value = energy_test(first.flatten(2), product.flatten(2), permutations, generator)
    _, control = energy_test(first.flatten(2), second.flatten(2), permutations, generator)
    ratio = _jacobian_ratio(policy, first.flatten(0, 1), condition, generator)
    pathwise = _pathwise_error(policy, condition, generator)
    agree = pathwise is not None and pathwise <= PATHWISE_LIMIT
    return Gauge(ratio, pathwise, distance, p_value, control, ratio == 0 and agree and p_value > P_VALUE_LIMIT)


def product_draws(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draws `[C, n, N, A]` with each agent's part from another draw of its conditioning: the marginals' product."""
    order = torch.rand(x.shape[:3], generator=generator, device=x.device).argsort(1)
    return x.gather(1, order[..., None].expand_as(x))


def energy_test(x: Tensor, y: Tensor, permutations: int, generator: torch.Generator) -> tuple[float, float]:
    """Squared energy distance (Szekely and Rizzo, 2013), mean over conditionings, and its permutation p-value.

    With labels s = +-1 of the pooled draws and D their distances, it is -s^T D s / n^2.

    Args:
        x: `[C, n, D]` draws.
        y: as many others.
        permutations: of labels, within each conditioning.
        generator: draws them.
    """
    n = x.shape[1]
    pooled = torch.cat([x, y], dim=1)
    scaled = pooled / pooled.std(1, keepdim=True).clamp_min(1e-6)
    distances = torch.cdist(scaled, scaled)
    labels = torch.ones(len(x), 1, 2 * n, dtype=x.dtype, device=x.device)
    labels[..., n:] = -1
    shuffled = torch.rand(len(x), permutations, 2 * n, generator=generator, device=x.device).argsort(-1)
    labels = torch.cat([labels, labels.expand(-1, permutations, -1).gather(2, shuffled)], dim=1)
    statistic = -((labels @ distances) * labels).sum(2).mean(0) / n**2
    larger = (statistic[1:] >= statistic[0]).sum()
    return float(statistic[0]), float((1 + larger) / (1 + permutations))


def _jacobian_ratio(policy: Any, x0: Tensor, condition: Tensor, generator: torch.Generator, rows: int = 64) -> float:
    """See `Gauge`; every x^k is data with noise, and the derivatives are summed over entries."""
    chosen = torch.randperm(len(x0), generator=generator, device=x0.device)[:rows]
    x0, condition, largest = x0[chosen], condition[chosen], 0.0
    n_agents = x0.shape[1]
    probe = torch.randn(x0.shape[1:], generator=generator, device=x0.device, dtype=x0.dtype)
    probes = torch.eye(n_agents, device=x0.device, dtype=x0.dtype)[:, None, :, None] * probe
    for k, step in zip(policy.sampler.timesteps, policy.sampler.coefficients, strict=True):
        noise = policy.chain_noise(len(x0), generator)[0]
        with torch.enable_grad():
            x = (step.signal_k * x0 + step.sigma_k * noise).requires_grad_()
            steps = torch.full((len(x),), k, dtype=torch.int64, device=x.device)
            output = policy.joint_prediction(x, steps, condition)
            (rows_of,) = torch.autograd.grad(output, x, probes.expand(-1, len(x), -1, -1), is_grads_batched=True)
        size = rows_of.square().sum((1, 3)).sqrt()  # [N, N], of eps_i by x_j
        own = size.diagonal()
        crossed = (size - torch.diag(own)).amax(1)
        largest = max(largest, float((crossed / own.clamp_min(1e-300)).max()))
    return largest


def _pathwise_error(policy: Any, condition: Tensor, generator: torch.Generator) -> float | None:
    parts = (policy.denoiser, policy.noise_factorization, policy.data_factorization)
    if not all(part.local_execution for part in parts):
        return None
    noise = policy.chain_noise(len(condition), generator)
    return float((policy.joint_sample(condition, noise) - policy.local_sample(condition, noise)).abs().max())
