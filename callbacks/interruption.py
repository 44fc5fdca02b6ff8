"""What ends a run before its last step: Ctrl-C, a scheduler's SIGTERM, or its time limit.

All of them wait for the end of an optimiser step: the loader resumes at whole steps, so a checkpoint in the middle of
accumulated batches would give the next step other batches than an uninterrupted run has.
"""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer

from callbacks.step_schedule import Scheduled, StepSchedule

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption(Scheduled):
    """Lets the step that is under way end, so that what is saved then is whole.

    The first SIGINT or SIGTERM, whichever rank it reaches, makes Lightning raise its `SIGTERMException` after the same
    step on all ranks; a second SIGINT ends the process where it stands.

    Attributes:
        received: the signal that came, None while there was none.
    """

    def __init__(self) -> None:
        super().__init__(1, "trainer.max_steps")
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the signals over from Lightning, whose handler talks to other ranks at any moment (Lightning hook)."""
        super().on_train_start(trainer, pl_module)
        self._before = {number: signal.signal(number, self._receive) for number in _SIGNALS}

    def act(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tells Lightning, on all ranks."""
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


class TimeLimit(Timer):
    """Ends the training after the step in which the time is over.

    Args:
        duration: of all training, resumed parts included: `DD:HH:MM:SS`, None for no limit.

    Raises:
        MisconfigurationException: the duration is written differently.
    """

    def __init__(self, duration: str | None) -> None:
        super().__init__(duration, verbose=False)
        self._steps = StepSchedule(1, "trainer.max_steps")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock (Lightning hook)."""
        super().on_train_start(trainer, pl_module)
        self._steps.start(trainer)

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Looks at the clock after whole steps (Lightning hook)."""
        if self._steps.is_due(trainer):
            super().on_train_batch_end(trainer, *args, **kwargs)
