"""What happens when somebody ends a run: Ctrl-C, or a scheduler's SIGTERM."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption(Callback):
    """Lets the batch that is under way end, so that what is saved then is whole.

    The first SIGINT or SIGTERM, whichever rank it reaches, makes Lightning raise its `SIGTERMException` after the same
    batch on all ranks; a second SIGINT ends the process where it stands.

    Attributes:
        received: the signal that came, None while there was none.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the signals over from Lightning, whose handler talks to other ranks at any moment (Lightning hook)."""
        self._before = {number: signal.signal(number, self._receive) for number in _SIGNALS}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tells Lightning, on all ranks (Lightning hook)."""
        if trainer.strategy.reduce_boolean_decision(self.received is not None, all=False):
            trainer._signal_connector.received_sigterm = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the signals back (Lightning hook)."""
        self._give_back()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives the signals back (Lightning hook)."""
        self._give_back()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
