"""An action that has to wait until data and checkpoint have been read."""

from collections.abc import Callable
from typing import Any

from lightning import Callback, LightningModule, Trainer


class FirstBatch(Callback):
    """Acts once, on rank zero, when the first batch has arrived: what cannot be read ends a run before that.

    Args:
        act: the action.
    """

    def __init__(self, act: Callable[[], object]) -> None:
        self._act: Callable[[], object] | None = act

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Acts (Lightning hook)."""
        if self._act is not None and trainer.is_global_zero:
            self._act()
        self._act = None
