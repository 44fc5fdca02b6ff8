"""The share of the machine's matrix-product rate that an update reaches."""

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.subjects import PAPER, PRESET, Update, made_up_batch, made_up_spec, make_dof_policy
from benchmarks.table import Row, ratio
from dof_lightning.evaluation.timing import interleaved

SETTINGS = (("preset", PRESET, 256, 30), ("paper's sizes", PAPER, 1024, 5))
SQUARE = 1024

_PRODUCTS = {"aten::bmm": (0, 1), "aten::mm": (0, 1), "aten::baddbmm": (1, 2), "aten::addmm": (1, 2)}


def gemm(settings: tuple[tuple[str, Any, int, int], ...] = SETTINGS, square: int = SQUARE) -> list[Row]:
    """The share by operations counted, and by the update's own products run alone."""
    return [row for setting in settings for row in _rows(*setting, square)]


class RecordedProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operands' shapes and strides of every matrix product inside it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operands: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Makes operands of the same shapes for each product, then lets it run."""
        if places := _PRODUCTS.get(func._schema.name):
            first, second = (_alike(args[place]) for place in places)
            self.operands.append((first, second))
        return func(*args, **(kwargs or {}))

    def replay(self) -> None:
        """Runs the recorded products alone."""
        for first, second in self.operands:
            torch.matmul(first, second)


def count_flops(update: Callable[[], object]) -> int:
    """Floating-point operations of one update's matrix products, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        update()
    total: int = counter.get_total_flops()
    return total


def _rows(name: str, overrides: Any, batch_size: int, repetitions: int, square: int) -> list[Row]:
    spec = made_up_spec(3)
    update = Update(make_dof_policy(spec, overrides), made_up_batch(spec, batch_size))
    flops = count_flops(update)
    with RecordedProducts() as products:
        update()
    left, right = torch.randn(square, square), torch.randn(square, square)
    functions = {"update": update, "replay": products.replay, "square": lambda: torch.mm(left, right)}
    seconds = interleaved(functions, repetitions)
    own = ratio(seconds["replay"], seconds["update"])
    share = ratio(seconds["square"], seconds["update"]) * flops / (2 * square**3)
    what = f"{name}: N=3, B={batch_size}"
    remark = f"share of the rate; {flops / 1e9:.2f} GFLOP an update"
    return [
        Row("gemm", what, f"{square}^3 product", share, ">= 0.5", remark),
        Row("gemm", what, "its own products alone", own, ">= 0.5", "share of the time"),
    ]


def _alike(operand: Tensor) -> Tensor:
    """Random numbers of the same shape and layout in memory."""
    extent = 1 + reduce(operator.add, ((n - 1) * s for n, s in zip(operand.shape, operand.stride(), strict=True)), 0)
    with torch.utils._python_dispatch._disable_current_modes():
        return torch.randn(extent).as_strided(operand.shape, operand.stride())
