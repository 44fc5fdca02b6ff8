"""Measures while training whether the joint law is still the product of the agents' laws."""

import sys
from collections.abc import Callable
from typing import Any, cast

from lightning import Callback, LightningModule, Trainer

from callbacks.context import RunContext
from callbacks.finite import check_finite
from callbacks.step_schedule import StepSchedule
from dof_lightning.evaluation.igd import Effort, gauge, has_joint_chain
from dof_lightning.evaluation.two_sample import total_correlation
from dof_lightning.policy import DecentralizedPolicy


class IGDCallback(Callback):
    """The IGD gauge every n steps and at the last step, on rank zero with averaged weights.

    Logs `igd/<key>` of `dof_lightning.evaluation.igd.Gauge`, all but the verdict: so few draws see strong dependence
    only, and `dof igd` is the one to trust. The draws are a function of the run's seed, the same every time; training
    is not touched. An algorithm without a joint chain says so once and is left alone.

    Args:
        run: its environment, whose first observations are conditioned on, and its seed.
        every_n_steps: optimiser steps between two measurements; None for none at all.
        conditions, draws, permutations, rows: see `dof_lightning.evaluation.igd.Effort`.

    Raises:
        UserError: a number is not positive.
    """

    needs_environment = True

    def __init__(
        self,
        run: RunContext,
        every_n_steps: int | None,
        conditions: int,
        draws: int,
        permutations: int,
        rows: int,
    ) -> None:
        self.env, self.seed = run.env, run.seed
        self.effort = Effort(conditions, draws, permutations, rows).check("callbacks.igd.")
        self._schedule = None if every_n_steps is None else StepSchedule(every_n_steps, "callbacks.igd.every_n_steps")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says so where there is nothing to measure (Lightning hook)."""
        if self._schedule is None:
            return
        self._schedule.start(trainer)
        if not has_joint_chain(_policy(pl_module)):
            self._schedule = None
            if trainer.is_global_zero:
                sys.stderr.write("igd: this algorithm has no joint chain of f and h, nothing is measured\n")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measures where due (Lightning hook)."""
        if self._schedule is None or not self._schedule.is_due(trainer):
            return
        check_finite(trainer, pl_module)
        # All ranks ask for it: where weights are sharded, they are put together.
        policy = _policy(pl_module)
        if not trainer.is_global_zero:
            return
        measured = gauge(policy, self.env, self.seed, self.effort).to_dict()
        del measured["passed"]
        values = {f"igd/{name}": value for name, value in measured.items() if value is not None}
        if self.env.law is not None:
            values["igd/coordination_gap"] = total_correlation(self.env.law)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)


def _policy(pl_module: LightningModule) -> DecentralizedPolicy:
    return cast(Callable[[], DecentralizedPolicy], pl_module.policy)()
