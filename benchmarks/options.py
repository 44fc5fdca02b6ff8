"""Options that might make an update faster, each against the update as it is shipped. Runs only when named."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from benchmarks.gemm import SETTINGS
from benchmarks.subjects import Update, made_up_batch, made_up_spec, make_dof_policy
from benchmarks.table import Row, ratio
from dof_lightning.evaluation.timing import interleaved
from dof_lightning.networks.activation import Mish


class UpdateWithoutFusion(Update):
    """An update whose Adam is separate operations over all parameters at once."""

    def _make_optimizer(self) -> torch.optim.Optimizer:
        groups = [
            {"params": group.parameters(), "lr": group.learning_rate} for group in self.algorithm.parameter_groups()
        ]
        return torch.optim.Adam(groups, foreach=True)


def options(settings: Sequence[tuple[str, Sequence[str], int, int]] = SETTINGS, compiled: bool = True) -> list[Row]:
    """The speed-up each option gives; above 1 is faster. Compilation, which is tried last, takes a minute.

    A setting is its name, overrides, B and repetitions.
    """
    return [row for setting in settings for row in _rows(*setting, compiled)]


def _rows(name: str, overrides: Sequence[str], batch_size: int, repetitions: int, compiled: bool) -> list[Row]:
    spec = made_up_spec(3)
    batch = made_up_batch(spec, batch_size)

    def make(*more: str, kind: type[Update] = Update) -> Update:
        return kind(make_dof_policy(spec, [*overrides, *more]), batch)

    functions: dict[str, Callable[[], object]] = {
        "as shipped": make(),
        "bf16 autocast": _in_bf16(make()),
        "foreach Adam": make(kind=UpdateWithoutFusion),
        "target_sampler.steps=1": make("algorithm.target_sampler.steps=1"),
        "target_sampler.steps=10": make("algorithm.target_sampler.steps=10"),
        "torch's Mish": _with_torchs_mish(make("denoiser.activation=mish", "algorithm.critic.activation=mish")),
        "Mish": make("denoiser.activation=mish", "algorithm.critic.activation=mish"),
        "SiLU": make("denoiser.activation=silu", "algorithm.critic.activation=silu"),
    }
    if compiled:
        functions["torch.compile of the networks"] = _compiled(make())
    seconds = interleaved(functions, repetitions)
    base = seconds.pop("as shipped")
    what = f"{name}: N=3, B={batch_size}"
    return [Row("options", f"{what}, {option}", "as shipped", ratio(base, own)) for option, own in seconds.items()]


def _in_bf16(update: Update) -> Callable[[], object]:
    def run() -> object:
        with torch.autocast("cpu", torch.bfloat16):
            return update()

    return run


def _with_torchs_mish(update: Update) -> Update:
    for module in list(update.algorithm.modules()):
        for child, part in list(module.named_children()):
            if isinstance(part, Mish):
                setattr(module, child, nn.Mish())
    return update


def _compiled(update: Update) -> Update:
    algorithm = update.algorithm
    for name in ("denoiser", "average_denoiser", "critic.online", "critic.target"):
        algorithm.get_submodule(name).compile()
    return update
