"""What ends a run before its last step: Ctrl-C, a scheduler's SIGTERM, a terminal that is gone, or its time limit.

All of them wait for the end of an optimiser step: the loader resumes at whole steps, so a checkpoint in the middle of
accumulated batches would give the next step other batches than an uninterrupted run has.
"""

import os
import signal
import stat
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer

from callbacks.step_schedule import Scheduled, StepSchedule

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption(Scheduled):
    """Lets the step that is under way end, with all that is measured after it, so that what is saved then is whole.

    The first SIGINT, SIGTERM or SIGHUP, whichever rank it reaches, makes Lightning raise its `SIGTERMException` after
    the same step on all ranks; a second SIGINT ends the process where it stands. Before the first step there is nothing
    to save, and a signal does what it does to any program.

    It comes after all callbacks but those that save, so that a signal during one of them is not left for the next step.

    Attributes:
        received: the signal that came, None while there was none.
    """

    def __init__(self) -> None:
        super().__init__(1, "trainer.max_steps")
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}
        self._speaks = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keeps Lightning's handler away, which talks to other ranks at any moment (Lightning hook)."""
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the signals over; what nohup has told to ignore a lost terminal goes on (Lightning hook)."""
        super().on_train_start(trainer, pl_module)
        self._speaks = trainer.is_global_zero
        heard = [one for one in _SIGNALS if one != signal.SIGHUP or signal.getsignal(one) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._receive) for number in heard}

    def act(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tells Lightning, on all ranks."""
        if self._any_rank_received(trainer):
            trainer._signal_connector.received_sigterm = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tells all ranks of a signal during the last step, after which Lightning looks no more (Lightning hook)."""
        if self._any_rank_received(trainer):
            self.received = self.received or signal.SIGTERM

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the signals back, once everything is saved (Lightning hook)."""
        self.give_back()

    def give_back(self) -> None:
        """Puts the handlers back that were there before training; Lightning has no hook for it where one failed."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _any_rank_received(self, trainer: Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self.received is not None, all=False)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _leave_lost_terminal()
        if self.received is None and self._speaks:
            words = "ends after this step and what is measured after it; Ctrl-C once more ends it without saving"
            with suppress(OSError):  # not print: it may be what the signal has interrupted
                os.write(2, f"{signal.Signals(number).name}: {words}\n".encode())
        self.received = self.received or signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave_lost_terminal() -> None:
    """Writes to nowhere from here on where the terminal is gone: a progress line would be an error before the save."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                os.dup2(nowhere, descriptor)
    os.close(nowhere)


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
