"""What a user reads instead of a traceback; it loads nothing before something went wrong."""

import difflib
import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from dof_lightning.errors import UserError

USER_ERROR_EXIT_CODE = 2


def unknown_key(key: str, known: Sequence[str]) -> str:
    """One line for a key that is not there, with the nearest that is."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean `{close[0]}`?" if close else "`python train.py --cfg job` shows all keys"
    return f"unknown key `{key}`; {hint}"


def exit_with_one_line(main: Callable[[], Any], typed: Sequence[str] = ()) -> int:
    """Runs a command; mistakes of the user become one line on stderr and exit code 2, defects keep their traceback.

    Args:
        main: the command.
        typed: its overrides, whose experiment and algorithm say which keys there are.

    Returns:
        the exit code.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        main()
    except UserError as error:
        line = str(error)
    except _errors_of_hydra() as error:
        from dof_lightning.config.compose import explain

        cause = error.__cause__
        line = str(cause) if isinstance(cause, UserError) else explain(error, typed)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" ({error.filename})" if error.filename else ""
        line = f"the disk is full{where}; make room, then the same command, with its run_dir, goes on from last.ckpt"
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what was saved stays, and the same command goes on from it\n")
        return 128 + signal.SIGINT
    else:
        return 0
    if os.environ.get("LOCAL_RANK", "0") == os.environ.get("SLURM_PROCID", "0") == "0":
        sys.stderr.write(f"error: {' '.join(line.split())}\n")
    return USER_ERROR_EXIT_CODE


def _errors_of_hydra() -> tuple[type[Exception], ...]:
    """The exceptions of Hydra and OmegaConf, asked for when there is an exception only."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    return HydraException, OmegaConfBaseException
