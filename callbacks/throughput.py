"""The speed of training, and whether it waits for data."""

import platform
import resource
import sys
import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler

from callbacks.context import RunContext
from callbacks.step_schedule import StepSchedule, log_to_charts

_FETCH = "train_dataloader_next"


class ThroughputCallback(Callback):
    """Logs windows and steps per second, the share of time spent waiting for the loader, and peak memory.

    The time counted is that of training steps and the loader; rollouts, validation and checkpoints are excluded,
    provided that this callback comes before theirs. Ranks are compared, and a GPU synchronised, only at log entries.

    Logs `throughput/windows_per_second` (over all ranks), `steps_per_second`, `data_wait_share` (of the rank that
    waits most), `peak_memory_mb` (of the largest rank: GPU memory, or the process's memory on a CPU).

    Args:
        run: provides the number of windows per batch.
        every_n_steps: optimiser steps between two log entries.

    Raises:
        UserError: `every_n_steps` is not positive.
    """

    def __init__(self, run: RunContext, every_n_steps: int) -> None:
        self.global_batch_size = run.global_batch_size
        self._schedule = StepSchedule(every_n_steps, "throughput.every_n_steps")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wraps the trainer's profiler, which is notified when a batch is fetched (Lightning hook)."""
        self._clock = _LoaderClock(trainer.profiler)  # type: ignore[attr-defined]
        trainer.profiler = self._clock  # type: ignore[attr-defined]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restores the trainer's profiler (Lightning hook)."""
        trainer.profiler = self._clock.inner  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the schedule and the clock (Lightning hook)."""
        self._schedule.start(trainer)
        self._restart(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Notes the time at which the step starts (Lightning hook)."""
        self._batch_started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds up the step's time, and logs if due (Lightning hook)."""
        due = self._schedule.is_due(trainer)
        if due and pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self._batches += 1
        self._computing += time.perf_counter() - self._batch_started
        if due:
            self._log(trainer, pl_module)
            self._restart(trainer)

    def _restart(self, trainer: Trainer) -> None:
        self._first_step, self._batches, self._computing, self._clock.seconds = trainer.global_step, 0, 0.0, 0.0

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        total = self._computing + self._clock.seconds
        local = (total, self._clock.seconds / total, peak_memory_mb(pl_module.device))
        largest = torch.tensor(local, dtype=torch.float32, device=pl_module.device)
        seconds, wait_share, memory = trainer.strategy.reduce(largest, reduce_op="max").tolist()
        measured = {
            "throughput/windows_per_second": self._batches * self.global_batch_size / seconds,
            "throughput/steps_per_second": (trainer.global_step - self._first_step) / seconds,
            "throughput/data_wait_share": wait_share,
            "throughput/peak_memory_mb": memory,
        }
        for name, value in measured.items():
            pl_module.log(name, value, prog_bar=name == "throughput/windows_per_second", logger=False)
        log_to_charts(trainer, measured)


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory so far in MiB: allocated on a GPU, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def device_name(device: torch.device, processes: int = 1) -> str:
    """The name, for tables of results, of the devices of a number of processes."""
    threads = torch.get_num_threads()
    cpu = f"{platform.machine()} CPU, {threads} thread{'s' if threads > 1 else ''}"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    return name if processes == 1 else f"{processes} x {name}"


class _LoaderClock(Profiler):
    """Forwards all calls to another profiler, and adds up the time between a fetch's start and stop."""

    def __init__(self, inner: Profiler) -> None:
        super().__init__()
        self.inner = inner
        self.seconds = 0.0
        self._started = 0.0

    def start(self, action_name: str) -> None:
        if action_name.endswith(_FETCH):
            self._started = time.perf_counter()
        self.inner.start(action_name)

    def stop(self, action_name: str) -> None:
        self.inner.stop(action_name)
        if action_name.endswith(_FETCH):
            self.seconds += time.perf_counter() - self._started

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        self.inner.setup(stage, local_rank, log_dir)

    def teardown(self, stage: str | None) -> None:
        self.inner.teardown(stage)

    def summary(self) -> str:
        return self.inner.summary()

    def describe(self) -> None:
        self.inner.describe()
