"""Independent Diffusion: N diffusion models, one per agent, without a joint loss (a baseline of Li et al., 2025)."""

from collections.abc import Callable
from dataclasses import dataclass

from dof_lightning.algorithms.dof import DoFLightningModule
from dof_lightning.algorithms.dof_policy import DoFCloningSettings, DoFPolicy
from dof_lightning.algorithms.dof_trajectory import DoFTrajectory, DoFTrajectorySettings
from dof_lightning.errors import UserError
from dof_lightning.factorization import data, noise
from dof_lightning.factorization.base import Factorization
from dof_lightning.factorization.concat import Concat
from dof_lightning.networks.agentwise import Agentwise
from dof_lightning.spec import DatasetSpec


@dataclass(frozen=True, kw_only=True)
class IndependentDiffusionSettings(DoFTrajectorySettings):
    """Settings of `IndependentDiffusion`; f and h other than concat are refused."""

    noise_factorization: Callable[[DatasetSpec], Factorization] = noise.Concat
    data_factorization: Callable[[DatasetSpec], Factorization] = data.Concat


@dataclass(frozen=True, kw_only=True)
class IndependentDiffusionPolicySettings(DoFCloningSettings):
    """Settings of `IndependentDiffusionPolicy`; f and h other than concat are refused."""

    noise_factorization: Callable[[DatasetSpec], Factorization] = noise.Concat
    data_factorization: Callable[[DatasetSpec], Factorization] = data.Concat


class IndependentDiffusion(DoFTrajectory, made_by=IndependentDiffusionSettings):
    """N planners trained side by side: DoF-Trajectory with f = h = concat and a network of its own for each agent.

    The loss is then a sum of the agents' own losses and gradients are clipped agent by agent, so the weights are those
    of N separate trainings on the same draws.

    Raises:
        UserError: a setting would couple the agents.
    """

    def _check_parts(self) -> None:
        networks = {"denoiser.sharing": self.denoiser, "algorithm.inverse.sharing": self.inverse}
        if self.values.ranking is not None:
            networks["algorithm.critic.sharing"] = self.values.ranking
        _check_apart(self, networks)


class IndependentDiffusionPolicy(DoFPolicy, made_by=IndependentDiffusionPolicySettings):
    """N diffusion policies trained side by side: cloning by DoF-Policy with f = h = concat and networks of their own.

    Raises:
        UserError: a setting would couple the agents.
    """

    def _check_parts(self) -> None:
        _check_apart(self, {"denoiser.sharing": self.denoiser})
        if self.critic is not None:
            raise UserError("algorithm.critics: Independent Diffusion imitates; set algorithm.critics=none")


def _check_apart(algorithm: DoFLightningModule, networks: dict[str, Agentwise]) -> None:
    """Refuses whatever would let one agent's data reach another's weights."""
    if algorithm.settings.execution != "decentralized":
        raise UserError("execution=centralized: Independent Diffusion has no joint chain; set execution=decentralized")
    for group in ("noise_factorization", "data_factorization"):
        part = algorithm.get_submodule(group)
        if not isinstance(part, Concat):
            raise UserError(
                f"{group}: {type(part).__name__} couples the agents' losses, Independent Diffusion has none in common; "
                f"set {group}=concat"
            )
    if (seeds := algorithm.settings.seeds.count) is not None:
        raise UserError(
            f"algorithm.shared_seeds={seeds}: a common seed is chosen by all agents' data, but "
            "Independent Diffusion shares nothing; set algorithm.shared_seeds=null"
        )
    for key, network in networks.items():
        if network.sharing != "independent" or not network.local_execution:
            raise UserError(
                f"{key}: {type(network).__name__} is not a network of its own for each agent, which Independent "
                f"Diffusion is made of; set {key}=independent"
            )
