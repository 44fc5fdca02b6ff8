"""The training itself, in each process of a run; it ends normally, by a signal, or because another rank has died."""

import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from dof_lightning.config.command_line import for_hydra, for_shell
from dof_lightning.errors import SharedError, UserError
from dof_lightning.training import watchdog
from dof_lightning.training.run_folder import is_first_process
from dof_lightning.training.start import Start


def fit(
    trainer: Trainer,
    algorithm: LightningModule,
    data: LightningDataModule,
    start: Start,
    received: Callable[[], signal.Signals | None],
    saved_step: Callable[[], int],
    run_dir: Path,
) -> None:
    """Trains to the end and leaves the process group.

    Args:
        trainer: Lightning's trainer.
        algorithm: the algorithm to train.
        data: serves the windows.
        start: the checkpoint that training resumes from.
        received: returns the signal that has ended the training, or None.
        saved_step: the step of `last.ckpt`.
        run_dir: the value of `run_dir` with which the same command resumes the run.

    Raises:
        SystemExit: a signal has ended the training, or another rank has died; the exit code distinguishes them.
        KeyboardInterrupt: Ctrl-C before the first step, or a second one.
    """
    with watchdog.watching_parent(str(run_dir)):
        try:
            trainer.fit(algorithm, data, ckpt_path=start.checkpoint, weights_only=True)
        except SIGTERMException:
            _say_goodbye(trainer.global_step, saved_step(), str(run_dir), received() or signal.SIGTERM)
        except SystemExit as ended:
            if isinstance(ended.__context__, KeyboardInterrupt):  # Lightning would exit with 1, and ignore another
                signal.signal(signal.SIGINT, signal.default_int_handler)
                raise KeyboardInterrupt from ended
            raise
        except UserError as error:
            if trainer.global_rank and not isinstance(error, SharedError):
                sys.stderr.write(f"rank {trainer.global_rank}: {error}\n")  # rank zero does not have this error
            raise
        except (RuntimeError, OSError) as error:
            sign = watchdog.sign_of_lost_peer(error)
            if trainer.world_size == 1 or sign is None:
                raise
            sys.stderr.write(
                watchdog.farewell(f"rank {trainer.global_rank} has lost another rank ({sign})", str(run_dir))
            )
            sys.exit(watchdog.LOST_PEER_EXIT_CODE)
        _leave_process_group()
        if (number := received()) is not None:  # during the last step: training is complete, evaluation is not
            _say_goodbye(trainer.global_step, saved_step(), str(run_dir), number)


def _say_goodbye(step: int, saved_step: int, run_dir: str, number: signal.Signals) -> None:
    """Prints how to resume after an interruption, and exits with the code that shells give the signal."""
    if not is_first_process():
        sys.exit(0)  # with another code the launcher would end rank zero
    done = f"stopped and saved at step {step:,}"
    if saved_step != step:
        done = f"stopped at step {step:,}, which could NOT be saved: last.ckpt is an earlier one or missing"
    again = for_shell(for_hydra("run_dir", run_dir))
    with suppress(OSError):  # the terminal may be gone
        sys.stderr.write(f"{number.name}: {done}; the same command with {again} resumes the run\n")
    sys.exit(128 + number)


def _leave_process_group() -> None:
    """Lets all ranks leave together: otherwise a busy machine occasionally aborts one after its work is done."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
