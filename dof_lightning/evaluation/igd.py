"""The IGD gauge: tests whether the joint distribution is the product of the agents' (Li et al., 2025, definition 2)."""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from dof_lightning.envs.base import VectorEnv
from dof_lightning.errors import UserError
from dof_lightning.evaluation.two_sample import classifier_accuracy, energy_test, hsic_test, product_draws
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.rollout.run import evaluation_seeds
from dof_lightning.seeding import make_generator

P_VALUE_LIMIT = 1e-3
PATHWISE_LIMIT = 1e-10
_CHUNK = 512  # chains that run together; limited by the memory of a planner's networks


class Chains(Protocol):
    """The interface that is measured: agents that can sample x_tot^0 by one joint chain, even if they act otherwise."""

    # Networks, two Factorizations and a Sampler; callbacks import this module and must not depend on these classes.
    denoiser: Any
    noise_factorization: Any
    data_factorization: Any
    sampler: Any

    def chain_condition(self, observations: Tensor) -> Tensor:
        """A chain's condition `[B, N, C]` at the start of episodes with observations `[B, N, O]`."""

    def chain_noise(self, rows: int, generator: torch.Generator) -> Tensor:
        """The noise of B chains, `[S, B, N, ...]` in float64."""

    def joint_sample(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Samples x_tot^0 `[B, N, ...]` by the centralised chain."""

    def local_sample(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Samples x_i^0 `[B, N, ...]` by every agent's own chain."""

    def joint_prediction(self, x: Tensor, k: Tensor, condition: Tensor) -> Tensor:
        """eps_tot `[B, N, ...]` at x^k `[B, N, ...]` and k `[B]`."""


@dataclass(frozen=True)
class Effort:
    """The numbers of draws of a measurement.

    Attributes:
        conditions: C, number of conditionings: first observations of episodes.
        draws: n, number of joint draws per sample and conditioning.
        permutations: number of permutations per test; with fewer than 1000 no p-value is below 1e-3 and no test can
            fail.
        rows: number of draws whose Jacobian is taken, and whose two chains are compared.
    """

    conditions: int = 4
    draws: int = 1024
    permutations: int = 2000
    rows: int = 64

    def check(self, prefix: str = "") -> "Effort":
        """Returns itself if every number is large enough.

        Args:
            prefix: the prefix of the keys, for the message.

        Raises:
            UserError: a number is too small.
        """
        for name, least in (("conditions", 1), ("draws", 16), ("permutations", 1), ("rows", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{prefix}{name}={getattr(self, name)} must be at least {least}")
        return self


FULL = Effort()


@dataclass(frozen=True)
class Gauge:
    """The measurements, in float64.

    Attributes:
        jacobian_ratio: largest |d eps_tot,i / d x_j|, j != i, over |d eps_tot,i / d x_i|, at all k of the sampler.
        pathwise_error: max |joint chain - agents' own chains| on the same noise; None if agents have no own chains.
        energy_distance: between joint draws and their product (each agent's part from another draw), squared.
        p_value: p-value of `energy_distance`, by permutation.
        control_p_value: the p-value of joint draws against other joint draws; below 1e-3 for 1 of 1000 seeds.
        hsic: normalised HSIC of the most dependent pair of agents given the conditioning, less the average over its
            permutations; about 0 if agents are independent, see `hsic_test`.
        hsic_p_value: p-value of `hsic`, by permutation.
        c2st_accuracy: accuracy of a classifier between joint draws and their product; 0.5 if they have the same
            distribution. It is not part of `passed`, because it answers the same question as the energy distance.
        passed: no agent's prediction depends on another's x, paths agree, and both p-values are above 1e-3.
    """

    jacobian_ratio: float
    pathwise_error: float | None
    energy_distance: float
    p_value: float
    control_p_value: float
    hsic: float
    hsic_p_value: float
    c2st_accuracy: float
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for printing."""
        return asdict(self)


def has_joint_chain(policy: DecentralizedPolicy) -> bool:
    """Whether the policy can be measured; only diffusion models joined by f and h are `Chains`."""
    return bool(getattr(policy, "has_joint_chain", False))


def gauge(
    policy: DecentralizedPolicy,
    env: VectorEnv,
    seed: int,
    effort: Effort = FULL,
    before_pass: Callable[[], None] | None = None,
) -> Gauge:
    """Measures a policy at observations of its world's first step; arguments as in `gauge_at`.

    Raises:
        UserError: the policy does not diffuse with a joint chain.
    """
    if not has_joint_chain(policy):
        raise UserError("the IGD gauge measures diffusion models joined by f and h; this algorithm has no joint chain")
    observations = env.reset(evaluation_seeds(seed, "selection", effort.check().conditions))
    device = next(policy.parameters()).device
    return gauge_at(policy, observations.to(device), seed, effort, before_pass)


@torch.no_grad()
def gauge_at(
    policy: DecentralizedPolicy,
    observations: Tensor,
    seed: int,
    effort: Effort = FULL,
    before_pass: Callable[[], None] | None = None,
) -> Gauge:
    """Measures at fixed observations `[C, N, O]`; see `Gauge`.

    Args:
        policy: a policy whose agents are `Chains`; it is not changed.
        observations: C conditionings; `effort.conditions` is not read.
        seed: the seed of all draws.
        effort: the numbers of draws.
        before_pass: called before every pass through the denoiser; an exception that it raises ends the measurement.
    """
    chains = cast(Chains, copy.deepcopy(policy).double().eval())
    if before_pass is not None:
        chains.denoiser.register_forward_pre_hook(lambda *_: before_pass())
    generator = make_generator(seed, "igd", device=observations.device)
    condition = chains.chain_condition(observations.double()).repeat_interleave(effort.draws, dim=0)

    def sample() -> Tensor:
        """`[C, n, N, D]`."""
        parts = [chains.joint_sample(c, chains.chain_noise(len(c), generator)) for c in torch.split(condition, _CHUNK)]
        return torch.cat(parts).unflatten(0, (-1, effort.draws)).flatten(3)  # type: ignore[no-untyped-call]

    first, second, third = sample(), sample(), sample()
    product = product_draws(third, generator)
    joint = first.flatten(2)
    distance, p_value = energy_test(joint, product.flatten(2), effort.permutations, generator)
    _, control = energy_test(joint, second.flatten(2), effort.permutations, generator)
    hsic, hsic_p_value, chance = hsic_test(first, effort.permutations, generator)
    accuracy = classifier_accuracy(joint, product.flatten(2))
    chosen = torch.randperm(len(condition), generator=generator, device=condition.device)[: effort.rows]
    ratio = _jacobian_ratio(chains, first.flatten(0, 1)[chosen], condition[chosen], generator)
    pathwise = _pathwise_error(chains, condition[chosen], generator)
    agree = pathwise is not None and pathwise <= PATHWISE_LIMIT
    passed = ratio == 0 and agree and min(p_value, hsic_p_value) > P_VALUE_LIMIT
    return Gauge(ratio, pathwise, distance, p_value, control, hsic - chance, hsic_p_value, accuracy, passed)


def _jacobian_ratio(chains: Chains, x0: Tensor, condition: Tensor, generator: torch.Generator) -> float:
    """Computes `Gauge.jacobian_ratio`; every x^k is noised data `[R, N, D]`, derivatives are summed over entries."""
    n_agents, largest = x0.shape[1], 0.0
    shape = chains.chain_noise(1, generator)[0, 0].shape
    x0 = x0.reshape(-1, *shape)
    probe = torch.randn(shape, generator=generator, device=x0.device, dtype=x0.dtype)
    agents = torch.eye(n_agents, device=x0.device, dtype=x0.dtype)
    probes = agents.reshape(n_agents, 1, n_agents, *[1] * (len(shape) - 1)) * probe
    for k, step in zip(chains.sampler.timesteps, chains.sampler.coefficients, strict=True):
        noise = chains.chain_noise(len(x0), generator)[0]
        with torch.enable_grad():
            x = (step.signal_k * x0 + step.sigma_k * noise).requires_grad_()
            steps = torch.full((len(x),), k, dtype=torch.int64, device=x.device)
            output = chains.joint_prediction(x, steps, condition)
            (rows_of,) = torch.autograd.grad(output, x, probes.expand(-1, *x.shape), is_grads_batched=True)
        size = rows_of.flatten(3).square().sum((1, 3)).sqrt()  # [N, N], of eps_i by x_j
        own = size.diagonal()
        crossed = (size - torch.diag(own)).amax(1)
        largest = max(largest, float((crossed / own.clamp_min(1e-300)).max()))
    return largest


def _pathwise_error(chains: Chains, condition: Tensor, generator: torch.Generator) -> float | None:
    parts = (chains.denoiser, chains.noise_factorization, chains.data_factorization)
    if not all(part.local_execution for part in parts):
        return None
    noise = chains.chain_noise(len(condition), generator)
    return float((chains.joint_sample(condition, noise) - chains.local_sample(condition, noise)).abs().max())
