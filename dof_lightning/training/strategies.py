"""Strategies for the ranks of a run, DDP or FSDP2: runs resume bit for bit, and no rank waits for ever."""

import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, ParallelStrategy, Strategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch import nn
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from dof_lightning.config.checks import chosen_devices
from dof_lightning.errors import UserError
from dof_lightning.training.run_folder import RUN_DIR_VARIABLE, external_rank
from dof_lightning.training.watchdog import watch_children

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class _Launcher(_SubprocessScriptLauncher):
    """Starts ranks 1, 2, ... of this machine; one that dies ends the job with a message.

    Lightning's own observer would kill rank zero without a message.
    """

    def launch(self, function: Callable, *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            watch_children(self.procs, os.environ.get(RUN_DIR_VARIABLE, "<its folder>"))
        return function(*args, **kwargs)


class _Launched(ParallelStrategy):
    """Uses our launcher in one of Lightning's strategies for several processes, and survives torchrun's restarts."""

    _launcher: Any
    _timeout: Any
    _get_process_group_backend: Any
    cluster_environment: Any
    num_processes: Any
    num_nodes: Any

    def _configure_launcher(self) -> None:
        if not self.cluster_environment.creates_processes_externally:
            self._launcher = _Launcher(self.cluster_environment, self.num_processes, self.num_nodes)

    def setup_environment(self) -> None:
        """Forms the process group (Lightning hook)."""
        _join_after_restart(self._get_process_group_backend(), self._timeout, self.root_device)
        super().setup_environment()


def _join_after_restart(backend: str, timeout: timedelta, device: torch.device) -> None:
    """Forms the group of a job that torchrun has started again on one machine.

    torchrun's key-value store survives restarts (torch 2.13), with the addresses of ended ranks: a rank that asks
    before another has written its new address would wait for an ended process. Each attempt gets keys of its own.
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    # Several machines may count differently; docs/guide/devices.md explains how to give them a new store.
    if attempt == "0" or not shared or os.environ["GROUP_WORLD_SIZE"] != "1":
        return
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    server = TCPStore(host, port, ranks, is_master=False, timeout=timeout)
    torch.distributed.init_process_group(
        backend,
        store=PrefixStore(f"attempt_{attempt}", server),
        rank=rank,
        world_size=ranks,
        timeout=timeout,
        device_id=None if device.type == "cpu" else device,
    )


class DDP(_Launched, DDPStrategy):
    """Gradients are averaged in the same buckets at every step, so that a resumed run ends with the same bits.

    DDP rearranges its buckets after the first backward pass of a process, by the order in which gradients came. The
    place of a number in its bucket determines the order in which an all-reduce over three or more ranks sums it: a
    resumed run's first step would differ in the last bit from the uninterrupted run's. Therefore a pass that trains
    nothing comes first.
    """

    def setup(self, trainer: Trainer) -> None:
        """Settles the buckets once the model is wrapped (Lightning hook)."""
        super().setup(trainer)
        if isinstance(self.model, DistributedDataParallel):
            settle_buckets(self.model)


def settle_buckets(wrapped: DistributedDataParallel) -> None:
    """Lets DDP arrange its buckets by a pass that trains nothing, the same at every start."""
    module = wrapped.module
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    forward = module.forward
    module.forward = lambda: torch.stack([0.0 * parameter.sum() for parameter in parameters]).sum()
    try:
        wrapped().backward()
    finally:
        module.forward = forward
        for parameter in parameters:
            parameter.grad = None


class FSDP2(_Launched, ModelParallelStrategy):
    """Weights, gradients and optimiser state are sharded over all ranks (`fully_shard`, see `sharding.py`).

    Checkpoints are the same whole files that other strategies write, assembled on rank zero: evaluation reads them,
    and each strategy resumes from another's.

    Args:
        timeout: a rank that receives nothing from the others for this long gives up.
    """

    def __init__(self, timeout: timedelta) -> None:
        super().__init__(save_distributed_checkpoint=False, timeout=timeout)

    def setup_environment(self) -> None:
        """Lays out all ranks along the dimension that data and weights are split over (Lightning hook)."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state, with parameters numbered as by an optimiser of whole parameters (Lightning hook)."""
        state: Any = get_optimizer_state_dict(self._module, _unwrapped(optimizer), options=_WHOLE)
        if not self.is_global_zero:
            return {}
        names = [name for group in state["param_groups"] for name in group["params"]]
        return _renamed(state, {name: number for number, name in enumerate(names)})

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Restores the optimiser's state; whole weights were loaded before they were sharded (Lightning hook)."""
        checkpoint: dict[str, Any] = self.checkpoint_io.load_checkpoint(checkpoint_path)
        names = {parameter: name for name, parameter in self._module.named_parameters()}
        for optimizer, state in zip(self.optimizers, checkpoint.pop("optimizer_states"), strict=True):
            in_order = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
            named = _renamed(state, dict(enumerate(in_order)))
            set_optimizer_state_dict(self._module, _unwrapped(optimizer), named, options=_WHOLE)
        return checkpoint

    @property
    def _module(self) -> nn.Module:
        assert self.model is not None
        return self.model


def _unwrapped(optimizer: Any) -> Optimizer:
    return optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer


def _renamed(state: Mapping[str, Any], names: Mapping[Any, Any]) -> dict[str, Any]:
    """Renames the parameters in an optimiser's state."""
    groups = [{**group, "params": [names[key] for key in group["params"]]} for group in state["param_groups"]]
    return {"state": {names[key]: value for key, value in state["state"].items()}, "param_groups": groups}


def as_launched(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with as many processes as torchrun or SLURM has started, if it specifies none itself.

    Otherwise each process would train a copy of its own, and all would write one `last.ckpt`.

    Args:
        config: resolved; `trainer.devices=1` and `trainer.num_nodes=1` do not specify a number of processes.

    Raises:
        UserError: the configuration specifies another number of processes.
    """
    launched = _launched()
    trainer = config["trainer"]
    if launched is None or launched[0] * launched[1] == 1:
        return dict(config)
    launcher, (ranks_here, machines) = ("torchrun" if "RANK" in os.environ else "SLURM"), launched
    asked = (_local_devices(trainer), trainer["num_nodes"])
    if asked == (1, 1):
        return {**config, "trainer": {**trainer, "devices": ranks_here, "num_nodes": machines}}
    if asked != launched:
        raise UserError(
            f"trainer.devices={trainer['devices']} and trainer.num_nodes={trainer['num_nodes']} do not fit "
            f"{launcher}, which has started {ranks_here} processes on each of {machines} machines; leave them out, or "
            f"type trainer.devices={ranks_here} trainer.num_nodes={machines}"
        )
    return dict(config)


def _launched() -> tuple[int, int] | None:
    """Processes per machine, and machines, of torchrun or SLURM; None if neither started this process.

    Raises:
        UserError: the machines have different numbers of processes.
    """
    if external_rank() is None:
        return None
    if "RANK" in os.environ:
        ranks = int(os.environ.get("WORLD_SIZE", "1"))
        machines = ranks // int(os.environ.get("LOCAL_WORLD_SIZE", ranks)) or 1
    else:
        ranks, machines = int(os.environ["SLURM_NTASKS"]), int(os.environ.get("SLURM_NNODES", "1"))
    if ranks % machines:
        raise UserError(f"{ranks} processes on {machines} machines: start as many on each, e.g. by --ntasks-per-node=")
    return ranks // machines, machines


def make_strategy(trainer: Mapping[str, Any], timeout_seconds: float) -> str | Strategy:
    """The strategy of a trainer's configuration, whose ranks wait `timeout_seconds` for each other.

    Raises:
        UserError: the requested settings do not fit together.
    """
    name, timeout = trainer["strategy"], timedelta(seconds=timeout_seconds)
    if name == "fsdp2":
        if trainer["precision"] != "32-true":
            raise UserError(f"trainer.strategy=fsdp2 trains in 32-true, got trainer.precision={trainer['precision']}")
        return FSDP2(timeout)
    if name == "ddp" or trainer["num_nodes"] > 1 or _local_devices(trainer) > 1:
        return DDP(timeout=timeout)
    return "auto"


def accelerator(wanted: str) -> dict[str, str]:
    """Resolves `auto` to an NVIDIA GPU or the CPU; Lightning's own would take Apple's GPU, which has no float64."""
    return {"accelerator": "gpu" if CUDAAccelerator.is_available() else "cpu"} if wanted == "auto" else {}


def cluster_plugins() -> list[SLURMEnvironment]:
    """Keeps Lightning from saving checkpoints of its own: SLURM restarts a job with the same command (`--requeue`)."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def _local_devices(trainer: Mapping[str, Any]) -> int:
    devices = trainer["devices"]
    if chosen := chosen_devices(devices):
        return len(chosen)
    if str(devices) in ("auto", "-1"):
        return 1 if trainer["accelerator"] == "cpu" else torch.cuda.device_count()
    return int(devices) if str(devices).isdigit() else 1
