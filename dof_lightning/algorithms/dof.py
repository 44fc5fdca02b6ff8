"""The factorised diffusion model: per-agent denoisers, joined by f and h in training, each alone at execution."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor

from dof_lightning.actors.diffusion import ActingModel
from dof_lightning.algorithms.base import Algorithm, ParameterGroup
from dof_lightning.algorithms.parts.diffused import Denoised, Diffused, DiffusionSettings, Parts, check_parts
from dof_lightning.algorithms.parts.shared_seed import Assignment, Noising, build_assignment
from dof_lightning.batch import EpisodeBatch
from dof_lightning.diffusion.chain import Chain, check_runs_locally
from dof_lightning.diffusion.clip import clip_with_way_back
from dof_lightning.diffusion.sampler import Sampler
from dof_lightning.networks.agentwise import Agentwise
from dof_lightning.networks.ema import ema_copy, ema_update
from dof_lightning.sharding import whole
from dof_lightning.spec import DatasetSpec

RECONSTRUCTION_SNR_LIMIT = 5.0


class DoFLightningModule(Algorithm):
    """A centralised diffusion model that f and h factorise into one model per agent (Li et al., 2025).

    Their eqs. 3, 8-11 and B.25-B.29; docs/method/README.md leads from them to this class.

    Holds the per-agent denoisers eps_theta_i, the noise factorisation f and the data factorisation h,
    the moving average of the modules that act, and the two ways to sample: `joint_sample` runs one chain on x_tot,
    `local_sample` runs one chain per agent on x_i. If f satisfies IGD, both give the same data from the same noise.

    Args:
        spec: the dataset's spec.
        settings: the settings of schedule, samplers and execution.
        parts: the denoisers, f and h.
        data_mask: broadcasts against `[N, ...]`, False for data that are padding or known: no noise, no loss.
        clip_range: data lie in [-clip_range, clip_range].
        known_dim: F, the number of features per agent that `assign_seed` receives; used with shared seeds.

    Attributes:
        imagines_teammates: decentralised agents run the denoiser on themselves and on teammates that they imagine, so
            a denoiser in which the agents meet is allowed.
        guidance_weight: w of classifier-free guidance at execution; 1 means none.
        gradient_clip: largest norm of the denoisers' gradient per agent; None means no clipping.

    Raises:
        UserError: f or h breaks its contract, or f, h or the denoiser cannot run locally although agents act alone.
    """

    imagines_teammates: ClassVar[bool] = False
    settings: DiffusionSettings
    guidance_weight: float = 1.0
    gradient_clip: float | None = None
    data_mask: Tensor

    def __init__(
        self,
        spec: DatasetSpec,
        settings: DiffusionSettings,
        parts: Parts,
        data_mask: Tensor,
        clip_range: float = 1.0,
        known_dim: int = 0,
    ) -> None:
        super().__init__(spec, settings)
        self.denoiser = parts.denoiser
        self.noise_factorization = parts.noise_factorization
        self.data_factorization = parts.data_factorization
        self.schedule = settings.schedule()
        self.sampler = settings.sampler(self.schedule)
        self.clip_range = clip_range
        self.register_buffer("data_mask", data_mask, persistent=False)
        self.average_denoiser = ema_copy(self.denoiser)
        self.average_noise_factorization = ema_copy(self.noise_factorization)
        self.average_data_factorization = ema_copy(self.data_factorization)
        check_parts(settings.execution, parts, data_mask, imagined=("denoiser",) if self.imagines_teammates else ())
        self.seed_assignment = build_assignment(settings.seeds, spec.n_agents * known_dim, parts)

    def draw_noise(
        self, shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype, mask: Tensor | None = None
    ) -> Tensor:
        """Standard normal noise `[..., N, ...]`, zero where the mask (None means `data_mask`) is False."""
        noise = torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)
        return noise * (self.data_mask if mask is None else mask)

    @abstractmethod
    def diffused(self, batch: EpisodeBatch, generator: torch.Generator) -> Diffused:
        """The part of a batch that diffuses, and its conditioning.

        Args:
            batch: windows.
            generator: draws whatever is not in the batch.
        """

    def noise_error(self, diffused: Diffused, k: int, generator: torch.Generator) -> Tensor:
        """`[B]`: ||eps - eps_theta||^2 of the averaged denoisers at step k, summed over all entries of positive weight.

        Args:
            diffused: held-out data.
            k: 1..K.
            generator: draws the noise.
        """
        steps = torch.full(diffused.x0.shape[:1], k, dtype=torch.int64, device=diffused.x0.device)
        denoised = self.denoise(diffused.x0, diffused.condition, generator, average=True, mask=diffused.mask, k=steps)
        error = (denoised.prediction - denoised.noise).square() * (diffused.weight > 0)
        return error.flatten(1).sum(1)

    def denoise(
        self,
        x0: Tensor,
        condition: Tensor,
        generator: torch.Generator,
        average: bool = False,
        mask: Tensor | None = None,
        k: Tensor | None = None,
    ) -> Denoised:
        """Noises data at random steps and predicts the noise.

        Args:
            x0: `[B, N, ...]` data in [-clip_range, clip_range].
            condition: `[B, N, C]`, agent i's own conditioning.
            generator: draws k and the noise.
            average: whether to use the moving average of the denoisers.
            mask: `[B, N, ...]` bool, False for data that are known or padding; None means `data_mask`.
            k: `[B]` steps in 1..K; None draws them.
        """
        mask = self.data_mask if mask is None else mask
        if k is None:
            k = torch.randint(1, self.schedule.steps + 1, x0.shape[:1], generator=generator, device=x0.device)
        noise = self.draw_noise(x0.shape, generator, x0.dtype, mask)
        network = self.average_denoiser if average else self.denoiser
        f = self.average_noise_factorization if average else self.noise_factorization
        noised = torch.where(mask, self.schedule.add_noise(x0, noise, k), x0)
        prediction = network(noised, k, condition).to(x0.dtype)
        if not f.invertible:
            prediction = f.join(prediction, condition) * mask
        estimate = torch.where(mask, self.schedule.predict_x0(noised, prediction, k), x0)
        clipped = (estimate.detach().abs() > self.clip_range) & mask
        clipped_share = clipped.sum() / mask.expand_as(x0).sum()
        return Denoised(k, noise, condition, prediction, clip_with_way_back(estimate, self.clip_range), clipped_share)

    def assign_seed(self, known: Tensor, diffused: Diffused, generator: torch.Generator, average: bool) -> Assignment:
        """Assigns to each sample the common seed that it is learned with, if there are shared seeds.

        Args:
            known: `[B, N, F]`, everything that the agents together know before they act.
            diffused: the data, given the agents' own conditioning without a seed.
            generator: draws noise and seeds.
            average: whether to use the moving average of the denoisers.
        """
        if self.seed_assignment is None:
            return Assignment()
        network = self.average_denoiser if average else self.denoiser
        noising = Noising(network, self.schedule, self.draw_noise, self.pin)
        assignment: Assignment = self.seed_assignment(noising, known, diffused, generator)
        return assignment

    def pin(self, x: Tensor, known: Tensor | None) -> Tensor:
        """Overwrites the entries of x that do not diffuse: by the known data (in-painting), or by zeros (padding)."""
        return x * self.data_mask if known is None else torch.where(self.data_mask, x, known)

    def diffusion_loss(self, denoised: Denoised, weight: Tensor) -> Tensor:
        """E ||f(eps_1..eps_N) - f(eps_theta_1..eps_theta_N)||^2 (Li et al., 2025, eq. 11; B.28 for wconcat).

        Args:
            denoised: the result of `denoise`.
            weight: `[B, N, ...]`, sums to 1 over the real entries of a full batch (see `entry_weight`).
        """
        f = self.noise_factorization
        error = f.as_state(denoised.prediction) - f.as_state(denoised.noise)
        return (weight * error.square()).sum()

    def reconstruction_loss(self, denoised: Denoised, x0: Tensor, weight: Tensor) -> Tensor:
        """E min(SNR_k, 5) ||x0 - h(x0_1..x0_N)||^2: trains h [inferred: the paper does not specify how].

        The estimates are held constant: the denoisers learn from the noise error through f alone, so with concat for
        f and h the model is Independent Diffusion, whatever the weight of this term.

        Args:
            denoised: the result of `denoise`.
            x0: `[B, N, ...]` data.
            weight: as in `diffusion_loss`.
        """
        error = x0 - self.data_factorization.join(denoised.x0.detach(), denoised.condition)
        snr = self.schedule.snr(denoised.k, like=error).clamp(max=RECONSTRUCTION_SNR_LIMIT)
        return (weight * snr * error.square()).sum()

    def joint_sample(
        self, condition: Tensor, noise: Tensor, sampler: Sampler | None = None, known: Tensor | None = None
    ) -> Tensor:
        """Samples x_tot^0 `[B, N, ...]` by the centralised chain, with state x_tot^k, noise f(eps) and data h(x^0).

        Args:
            condition: `[B, N, C]`.
            noise: `[S, B, N, ...]` per-agent standard normal noise, S = `sampler.n_noises`.
            sampler: None means the sampler of execution.
            known: `[B, N, ...]`, the data of entries that do not diffuse; None if all entries do.
        """
        return self._acting_chain(sampler, known).jointly(condition, noise)

    def local_sample(
        self, condition: Tensor, noise: Tensor, sampler: Sampler | None = None, known: Tensor | None = None
    ) -> Tensor:
        """Samples by N chains, agent i's on its own unweighted x_i^k; arguments as in `joint_sample`.

        Raises:
            TypeError: the agents meet in the denoiser, so none has a chain of its own.
        """
        check_runs_locally(self.denoiser)
        return self._acting_chain(sampler, known).locally(condition, noise)

    def _acting_chain(self, sampler: Sampler | None, known: Tensor | None) -> Chain:
        return Chain(
            denoiser=self.average_denoiser,
            noise_factorization=self.average_noise_factorization,
            data_factorization=self.average_data_factorization,
            sampler=sampler or self.sampler,
            clip=self._clip,
            pin=partial(self.pin, known=known),
            guidance_weight=self.guidance_weight,
            kept=self.settings.seeds.width,
        )

    def acting_sample(self, condition: Tensor, noise: Tensor, sampler: Sampler | None = None) -> Tensor:
        """Samples by `local_sample` or `joint_sample`, whichever acts (`execution`)."""
        return (self.local_sample if self._acts_alone else self.joint_sample)(condition, noise, sampler)

    def learning_sample(self, condition: Tensor, noise: Tensor, sampler: Sampler) -> tuple[Tensor, list[Tensor]]:
        """Samples as `acting_sample` does, but by the trained denoisers and h, with gradients through the whole chain.

        Estimates are clipped by `clip_with_way_back`, so that the gradient can bring a saturated one back. Memory grows
        with the sampler's steps, because the activations of all steps are kept.

        Returns:
            the samples, and the denoisers' predictions at each step.
        """
        predictions: list[Tensor] = []

        def clip(x: Tensor) -> Tensor:
            return clip_with_way_back(x, self.clip_range) * self.data_mask

        def denoiser(x: Tensor, k: Tensor, condition: Tensor) -> Tensor:
            predictions.append(self.denoiser(x, k, condition))
            return predictions[-1]

        chain = Chain(denoiser, self.noise_factorization, self.data_factorization, sampler, clip)
        return clip((chain.locally if self._acts_alone else chain.jointly)(condition, noise)), predictions

    def acting_model(self) -> ActingModel:
        """The averaged model that a policy diffuses by. If weights are sharded, all ranks must call this together."""
        return ActingModel(
            denoiser=cast(Agentwise, whole(self.average_denoiser)),
            noise_factorization=self.average_noise_factorization,
            data_factorization=self.average_data_factorization,
            sampler=self.sampler,
            clip_range=self.clip_range,
            guidance_weight=self.guidance_weight,
            execution=self.settings.execution,
            shared_seeds=self.settings.seeds.count,
        )

    @property
    def _acts_alone(self) -> bool:
        return self.settings.execution == "decentralized"

    def _check_parts(self) -> None:
        """Refuses incompatible parts with a one-line error; the algorithm calls it once all parts are built."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """Groups of the denoisers, the factorisation (f and h), the algorithm's additions and the seed assignment."""
        rate, factorization = self.settings.learning_rate, (self.noise_factorization, self.data_factorization)
        groups = [
            ParameterGroup("denoiser", (self.denoiser,), rate, self.gradient_clip),
            ParameterGroup("factorization", factorization, rate, None),
            *self.further_groups(),
        ]
        if self.seed_assignment is not None:
            groups.append(self.seed_assignment.parameter_group())
        return [group for group in groups if group.parameters()]

    def further_groups(self) -> list[ParameterGroup]:
        """Groups of the modules that the algorithm trains in addition to denoisers, f and h."""
        return []

    def metrics(self) -> dict[str, Tensor]:
        """The learned weights of f and h, if any."""
        parts = {"noise_factorization": self.noise_factorization, "data_factorization": self.data_factorization}
        return {f"{group}/{name}": value for group, part in parts.items() for name, value in part.metrics().items()}

    def after_step(self) -> None:
        """Updates the moving average of the modules that act."""
        for name in ("denoiser", "noise_factorization", "data_factorization"):
            ema_update(self.get_submodule(f"average_{name}"), self.get_submodule(name), self.settings.ema_decay)

    def _clip(self, x: Tensor) -> Tensor:
        return x.clamp(-self.clip_range, self.clip_range) * self.data_mask
