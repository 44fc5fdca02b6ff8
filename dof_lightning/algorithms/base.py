"""Base class of all training algorithms: a LightningModule that turns batches into a loss and provides a policy."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.errors import UserError
from dof_lightning.networks.agentwise import clip_gradient_norm
from dof_lightning.policy import DecentralizedPolicy, Execution
from dof_lightning.seeding import make_generator
from dof_lightning.settings import Settings, WholeNumber
from dof_lightning.sharding import average_gradients, shard
from dof_lightning.spec import ActionKind, DatasetSpec

PADDED_TAILS = "data.module.train_on_padded_tails"


@dataclass(frozen=True, kw_only=True)
class AlgorithmSettings(Settings):
    """Base of all algorithms' settings; called with a dataset's spec, they build their algorithm (see `made_by`).

    Attributes:
        seed: the run's seed; the noise of a step is a function of (seed, step, rank, accumulated batch).
        execution: `decentralized` (every agent acts alone) or `centralized`.
        learning_rate_schedule: schedule of all learning rates at once, see `learning_rate_factor`.
        learning_rate_warmup_steps: for `cosine`, number of optimiser steps until the full rates are reached.
    """

    _made: ClassVar[type["Algorithm"]]

    seed: WholeNumber = 0
    execution: Execution = "decentralized"
    learning_rate_schedule: Literal["constant", "cosine"] = "constant"
    learning_rate_warmup_steps: WholeNumber = 0

    @classmethod
    def makes(cls) -> type["Algorithm"]:
        """The algorithm's class that these settings build."""
        return cls._made

    def idle(self, action_kind: ActionKind | None = None) -> dict[str, str]:
        """The fields that nothing reads given the values of the others, each with the field that makes it idle.

        Users who set an idle field get an error, so that nobody believes that it took effect. Of the keys outside the
        algorithm, the result contains `PADDED_TAILS` if no rows after an episode's end diffuse.

        Args:
            action_kind: the dataset's; None if it is not known yet.
        """
        is_constant = self.learning_rate_schedule == "constant"
        return {"learning_rate_warmup_steps": "algorithm.learning_rate_schedule=constant"} if is_constant else {}

    def __call__(self, spec: DatasetSpec) -> "Algorithm":
        """Builds the algorithm for a dataset."""
        return self.makes()(spec, self)


@dataclass(frozen=True)
class ParameterGroup:
    """Modules that share a learning rate and a gradient clip.

    Attributes:
        name: appears in TensorBoard as `gradient_norm/<name>`.
        modules: the modules whose trainable parameters form the group.
        learning_rate: Adam's learning rate.
        clip: largest gradient norm of the group, per agent if the weights are per agent; None means no clipping.
        weight_decay: decoupled weight decay, as in AdamW (Loshchilov & Hutter, 2019).
    """

    name: str
    modules: tuple[nn.Module, ...]
    learning_rate: float
    clip: float | None
    weight_decay: float = 0.0

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters, in a stable order."""
        return [p for module in self.modules for p in module.parameters() if p.requires_grad]


class Algorithm(LightningModule, ABC):
    """Base of all algorithms.

    Subclasses define which rows they need (`window`), how a batch becomes losses (`losses`), what is optimised
    (`parameter_groups`) and what acts (`policy`). They never see environments, data modules or callbacks. A subclass
    names the class of its settings, which then builds it: `class BC(Baseline, made_by=BCSettings)`.

    Args:
        spec: the dataset's spec.
        settings: the algorithm's settings.

    Attributes:
        window: rows of an episode that a sample holds.
        action_kinds: the action kinds of the datasets it can learn from.

    Raises:
        UserError: the dataset's actions are of a kind that is not among `action_kinds`.
    """

    window: Window
    action_kinds: ClassVar[tuple[ActionKind, ...]] = ("continuous", "discrete")

    def __init_subclass__(cls, made_by: type[AlgorithmSettings] | None = None, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if made_by is not None:
            made_by._made = cls

    def __init__(self, spec: DatasetSpec, settings: AlgorithmSettings) -> None:
        super().__init__()
        if spec.action_kind not in self.action_kinds:
            raise UserError(
                f"{type(self).__name__} learns {self.action_kinds[0]} actions, those of {spec.name} are "
                f"{spec.action_kind}; choose another algorithm= or data="
            )
        self.spec, self.seed = spec, settings.seed
        self.settings = settings
        self._whole_while_sharded: list[nn.Parameter] | None = None
        self._described: dict[str, Any] | None = None

    @abstractmethod
    def losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Scalar losses by TensorBoard tag; `loss` is the one that is minimised.

        Args:
            batch: windows of `window.history + window.horizon` rows.
            generator: the only source of randomness, on the batch's device.
        """

    @abstractmethod
    def heldout_losses(self, batch: EpisodeBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Scalars by tag, on episodes never trained on and with the EMA weights; at least `heldout/diffusion`-like."""

    @abstractmethod
    def policy(self) -> DecentralizedPolicy:
        """The policy in evaluation mode: it shares the algorithm's EMA weights, or copies them if they are sharded.

        All ranks must call this together.
        """

    @abstractmethod
    def parameter_groups(self) -> list[ParameterGroup]:
        """Disjoint groups that together hold every trainable parameter."""

    def metrics(self) -> dict[str, Tensor]:
        """Further scalars for TensorBoard that need no batch (e.g. the weights of f and h)."""
        return {}

    def remarks(self) -> list[str]:
        """Notes for the user before training, one line each: what in the dataset could not be used as usual."""
        return []

    def after_step(self) -> None:
        """Called once after every optimiser step; the place to update moving averages."""

    def training_step(self, batch: EpisodeBatch, batch_index: int) -> Tensor:
        """One forward pass (Lightning hook)."""
        losses = self.losses(batch, self._generator("train", batch_index % self.trainer.accumulate_grad_batches))
        if self._is_logging_step():
            self.log_dict({name: value.detach() for name, value in losses.items() if name != "loss"} | self.metrics())
            self.log("loss", losses["loss"].detach(), prog_bar=True)
        return losses["loss"]

    def validation_step(self, batch: EpisodeBatch, batch_index: int) -> None:
        """Held-out losses with the same noise every time (Lightning hook)."""
        generator = make_generator(self.seed, "heldout", batch_index, self.global_rank, device=self.device)
        self.log_dict(self.heldout_losses(batch, generator), on_epoch=True, batch_size=batch.size, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds spec and settings for `dof eval`, unless a run of ours has added more already (Lightning hook)."""
        if "dof_lightning" not in checkpoint:
            from dof_lightning.checkpoints.trainer_made import describe_algorithm  # it imports algorithms

            self._described = self._described or describe_algorithm(self)
            checkpoint["dof_lightning"] = self._described

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Path | str, trust: bool = False) -> Self:  # type: ignore[override]
        """The trained algorithm on the CPU, with the settings and the spec that the checkpoint holds.

        Args:
            checkpoint_path: a checkpoint of `train.py` or of any Trainer; a run's folder stands for its last one.
            trust: whether it may name classes outside this project, lightning and torch.

        Raises:
            UserError: the checkpoint cannot be read, is of another algorithm, or names a class that is not trusted.
        """
        from dof_lightning.checkpoints.trainer_made import load_algorithm

        loaded = load_algorithm(checkpoint_path, trust)
        if not isinstance(loaded, cls):
            raise UserError(f"{checkpoint_path} holds a {type(loaded).__name__}, no {cls.__name__}")
        return loaded

    def configure_model(self) -> None:
        """Shards the weights over the ranks if the strategy requires it (Lightning hook)."""
        if self.device_mesh is not None and self._whole_while_sharded is None:
            self._whole_while_sharded = shard(self, self.device_mesh["data_parallel"])

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Averages the gradients of unsharded parameters over the ranks if others are sharded (Lightning hook)."""
        average_gradients(self._whole_while_sharded or ())

    def make_optimizer(self) -> torch.optim.Optimizer:
        """One AdamW (Adam if nothing decays) with all parameter groups, each at its full learning rate."""
        groups: Iterable[dict[str, Any]] = (
            {
                "params": group.parameters(),
                "lr": group.learning_rate,
                "weight_decay": group.weight_decay,
                "name": group.name,
            }
            for group in self.parameter_groups()
        )
        return torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.0, fused=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, with a schedule of its learning rates unless they are constant (Lightning hook).

        Raises:
            UserError: the rates are to fall until the end of training and the Trainer has none, or the warm-up outlasts
                it.
        """
        optimizer, warmup = self.make_optimizer(), self.settings.learning_rate_warmup_steps
        if self.settings.learning_rate_schedule == "constant":
            return optimizer
        end = self.trainer.estimated_stepping_batches
        if not warmup < end < math.inf:
            raise UserError(
                f"algorithm.learning_rate_schedule=cosine ends at trainer.max_steps={end}, which must be finite and "
                f"above algorithm.learning_rate_warmup_steps={warmup}"
            )
        factor = partial(learning_rate_factor, max_steps=int(end), warmup=warmup)
        # A function of the step alone: a resumed run, even one that is extended, needs only the number of steps done.
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the gradients of each group, agent by agent, and logs the norms before clipping (Lightning hook)."""
        for group in self.parameter_groups():
            norm = clip_gradient_norm(group.modules, group.clip)
            if self._is_logging_step():
                self.log(f"gradient_norm/{group.name}", norm.max())

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Takes one optimiser step, then updates the moving averages (Lightning hook)."""
        super().optimizer_step(*args, **kwargs)
        self.after_step()

    def _generator(self, purpose: str, micro_batch: int) -> torch.Generator:
        return make_generator(self.seed, purpose, self.global_step, self.global_rank, micro_batch, device=self.device)

    def _is_logging_step(self) -> bool:
        # Lightning writes what was logged in the step that completes a multiple of n.
        return bool((self.global_step + 1) % self.trainer.log_every_n_steps == 0)  # type: ignore[attr-defined]


def learning_rate_factor(step: int, max_steps: int, warmup: int = 0) -> float:
    """The fraction of its full learning rate that each parameter group has after `step` optimiser steps.

    It rises linearly over `warmup` steps and falls by a cosine from 1 to 0 at `max_steps` (Loshchilov & Hutter, 2017,
    eq. 5, without restarts).

    Args:
        step: number of optimiser steps done.
        max_steps: the step at which training ends, above `warmup`.
        warmup: number of optimiser steps until the fraction is 1.
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / (max_steps - warmup))
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean of a detached tensor over all ranks, so that statistics are those of the global batch."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    total = values.detach().clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()
