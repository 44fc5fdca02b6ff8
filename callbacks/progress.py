"""The progress of a training: a bar in a terminal, or an occasional line elsewhere."""

import sys
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

_SHOWN = {
    "loss": "loss {:.4g}",
    "throughput/windows_per_second": "{:,.0f} windows/s",
    "rollout/normalized_score": "normalised score {:.1f}",
}
_SHOWN_WITHOUT_REFERENCE = {"rollout/return_mean": "return {:.1f}"}
_SHOWN_WITHOUT_ROLLOUTS = {"heldout/diffusion": "held-out {:.4g}"}


class Progress(Callback):
    """Shows steps, loss, windows/s and the newest normalised score.

    Without a reference to normalise by, it shows the return instead; if nothing is played, the held-out loss.
    Lightning's bars count the batches of an epoch, not the run's steps; in a log file, TQDM's prints too much and
    Rich's nothing.

    Args:
        seconds_between_lines: seconds between two lines if there is no terminal.
        seconds_between_updates: seconds between two updates of the bar.
    """

    def __init__(self, seconds_between_lines: float = 20.0, seconds_between_updates: float = 0.5) -> None:
        self._console = Console(file=sys.stdout)
        self._seconds = seconds_between_updates if self._console.is_terminal else seconds_between_lines
        self._bar: Bar | None = None

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the bar (Lightning hook)."""
        self._shown, self._shown_step = time.monotonic(), -1
        if self._console.is_terminal:
            columns = (MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self._bar = Bar(*columns, console=self._console, auto_refresh=False)
            self._task = self._bar.add_task("starting", total=trainer.max_steps, completed=trainer.global_step)
            self._bar.start()

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Updates the display when it is due (Lightning hook)."""
        if time.monotonic() - self._shown >= self._seconds:
            self._show(trainer)

    @rank_zero_only
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the last state (Lightning hook)."""
        if self._shown_step != trainer.global_step:
            self._show(trainer)
        self._close()

    @rank_zero_only
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restores the terminal (Lightning hook)."""
        self._close()

    def _show(self, trainer: Trainer) -> None:
        self._shown, self._shown_step = time.monotonic(), trainer.global_step
        text = self._describe(trainer)
        if self._bar is None:
            self._console.print(f"step {trainer.global_step}/{trainer.max_steps}  {text}", highlight=False)
        else:
            self._bar.update(self._task, completed=trainer.global_step, description=text, refresh=True)

    def _describe(self, trainer: Trainer) -> str:
        metrics = trainer.callback_metrics
        fallback = _SHOWN_WITHOUT_REFERENCE if "rollout/return_mean" in metrics else _SHOWN_WITHOUT_ROLLOUTS
        shown = _SHOWN if "rollout/normalized_score" in metrics else _SHOWN | fallback
        return "  ".join(form.format(float(metrics[name])) for name, form in shown.items() if name in metrics)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
