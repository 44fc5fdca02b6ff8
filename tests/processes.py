"""Processes that accidents happen to.

They are forked from a server that has imported torch and done nothing else: a test process that has computed already
has threads, and a copy of it now and then waits for one of them for ever.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch", "callbacks.checkpoint", "data_modules.store"])


def start(function: Callable[..., None], *arguments: object) -> BaseProcess:
    """Runs a function of a test module in a process that ends with this one."""
    process = _context.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def exit_code(process: BaseProcess, seconds: float = 60.0) -> int:
    """Waits for a process; one that does not end is killed, and fails the test."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"{process.name} did not end within {seconds:.0f} s")
    return process.exitcode
