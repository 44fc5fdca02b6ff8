"""Interruptions that end a run before its last step: Ctrl-C, a scheduler's SIGTERM, a lost terminal, the time limit.

All of these wait for the end of an optimiser step: the loader resumes at whole steps, so a checkpoint in the middle of
accumulated batches would give the next step other batches than in an uninterrupted run. They do not wait for a
measurement after it: it may take minutes, so it is given up and repeated before a resumed run continues to train.
"""

import os
import signal
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import torch.distributed as dist
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.step_schedule import GivenUp, Scheduled, StepSchedule

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ASKED = "dof/asked to end"  # key in the store that the ranks share
_SECONDS_BETWEEN_LOOKS = 0.5  # seconds between two reads of that store


class Interruption(Scheduled):
    """Lets the current step end, so that its checkpoint is complete, and cuts short any measurement after it.

    The first SIGINT, SIGTERM or SIGHUP on any rank makes Lightning raise its `SIGTERMException` after
    the same step on all ranks; a second SIGINT ends the process immediately. Before the first step there is nothing
    to save, and a signal ends the process as usual.

    A measurement of that step that has not ended is given up on all ranks, leaves no number behind, and is repeated at
    the start of the resumed run: its scores are those of an uninterrupted run.

    This callback runs after all others except those that save, so that a signal during one of them is not left for the
    next step.

    Attributes:
        received: the signal that arrived, None before one has arrived.
    """

    def __init__(self) -> None:
        super().__init__(1, "trainer.max_steps")
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}
        self._speaks = False
        self._shared: Any = None  # the store of the process group, None with one rank
        self._told = False
        self._looked = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keeps Lightning's handler away, which communicates with other ranks at any moment (Lightning hook).

        Then repeats what an earlier process has given up: Lightning has no hook between restoring a checkpoint
        and the first step that is also reached if there is no step left.
        """

        def catch_up() -> None:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, Scheduled):
                    callback.catch_up(trainer, pl_module)

        trainer._signal_connector.register_signal_handlers = catch_up  # type: ignore[method-assign]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes over the signals; SIGHUP stays ignored if nohup has set it so (Lightning hook)."""
        super().on_train_start(trainer, pl_module)
        self._speaks = trainer.is_global_zero
        self._shared = dist.distributed_c10d._get_default_store() if trainer.world_size > 1 else None
        heard = [one for one in _SIGNALS if one != signal.SIGHUP or signal.getsignal(one) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._receive) for number in heard}

    def check_stop(self) -> None:
        """Ends a measurement if a signal has arrived on any rank.

        Ranks take different numbers of steps, so a collective could not reach them all: they read their common store.

        Raises:
            GivenUp: a signal has arrived.
        """
        if self._shared is not None and self.received is not None and not self._told:
            self._shared.set(_ASKED, "1")  # not in the handler, which may interrupt another call of the store
            self._told = True
        elif self._shared is not None and self.received is None and self._looks_again():
            self._told = self._shared.check([_ASKED])
        if self.received is not None or self._told:
            raise GivenUp

    def _looks_again(self) -> bool:
        now = time.monotonic()
        is_due = now - self._looked >= _SECONDS_BETWEEN_LOOKS
        self._looked = now if is_due else self._looked
        return is_due

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Ends a pass over held-out windows early, after the same batch on all ranks (Lightning hook)."""
        progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
        if trainer.state.fn == TrainerFn.FITTING and not progress.is_last_batch and self._any_rank_received(trainer):
            trainer._signal_connector.received_sigterm = self.owed = True

    def catch_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Repeats a pass over held-out windows that was cut short, as Lightning runs one after a step."""
        if not self.owed:
            return
        self.owed, passes, logged = False, trainer.fit_loop.epoch_loop.val_loop, trainer._logger_connector
        first_iteration = logged._first_loop_iter
        trainer.validating, passes.restarting = True, False
        passes.run()
        trainer.training, logged._first_loop_iter = True, first_iteration

    def act(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports a signal to Lightning, on all ranks."""
        if self._any_rank_received(trainer):
            trainer._signal_connector.received_sigterm = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shares a signal of the last step with all ranks; Lightning no longer checks after it (Lightning hook)."""
        if self._any_rank_received(trainer):
            self.received = self.received or signal.SIGTERM

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restores the signal handlers, once everything is saved (Lightning hook)."""
        self.give_back()

    def give_back(self) -> None:
        """Restores the handlers from before training; Lightning has no hook that runs if another hook failed."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _any_rank_received(self, trainer: Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self.received is not None, all=False)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _leave_lost_terminal()
        if self.received is None and self._speaks:
            words = "ends after this step, measurements are repeated when it resumes; Ctrl-C once more does not save"
            with suppress(OSError):  # not print, which the signal may have interrupted
                os.write(2, f"{signal.Signals(number).name}: {words}\n".encode())
        self.received = self.received or signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave_lost_terminal() -> None:
    """Discards further output if the terminal is gone: a progress line would raise an error before the save."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                os.dup2(nowhere, descriptor)
    os.close(nowhere)


class TimeLimit(Timer):
    """Ends the training after the step in which the time runs out.

    Args:
        duration: largest duration of the training, resumed parts included: `DD:HH:MM:SS`, None for no limit.

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
        """Checks the clock after whole steps (Lightning hook)."""
        if self._steps.is_due(trainer):
            super().on_train_batch_end(trainer, *args, **kwargs)
