"""Interleaved timing, so that the machine's other load affects all compared functions alike."""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


def interleaved(functions: Mapping[Name, Callable[[], object]], repetitions: int) -> dict[Name, list[float]]:
    """Times functions in turn, so that the machine's other load affects all of them alike.

    Each function is called once before the timing starts.

    Args:
        functions: the functions by name.
        repetitions: number of timed calls of each.

    Returns:
        seconds of every repetition, by name.
    """
    for function in functions.values():
        function()
    seconds: dict[Name, list[float]] = {name: [] for name in functions}
    for _ in range(repetitions):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - started)
    return seconds
