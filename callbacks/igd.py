"""A measurement while training: tests whether the joint distribution is still the product of the agents'."""

import sys

from lightning import LightningModule, Trainer

from callbacks.context import RunContext, policy_of
from callbacks.finite import check_finite
from callbacks.step_schedule import Scheduled, log_to_charts, whole
from dof_lightning.evaluation.igd import Effort, gauge, has_joint_chain
from dof_lightning.evaluation.two_sample import total_correlation


class IGDCallback(Scheduled):
    """Runs the IGD gauge every n steps and at the last step, on rank zero with averaged weights.

    Logs `igd/<key>` of `dof_lightning.evaluation.igd.Gauge`, all but the verdict: its few draws detect strong
    dependence only, and `dof igd` gives the reliable result. The draws are a function of the run's seed, the same every
    time; training is not affected. For an algorithm without a joint chain, one line reports that nothing is measured.

    Args:
        run: provides the environment, whose first observations are conditioned on, and the seed.
        every_n_steps: optimiser steps between two measurements; None means none.
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
        super().__init__(every_n_steps, "callbacks.igd.every_n_steps")
        self.env, self.seed, self._check_stop = run.env, run.seed, run.check_stop
        self.effort = Effort(conditions, draws, permutations, rows).check("callbacks.igd.")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports if there is nothing to measure (Lightning hook)."""
        super().on_train_start(trainer, pl_module)
        if self._schedule is not None and not has_joint_chain(policy_of(pl_module)):
            self._schedule = None
            if trainer.is_global_zero:
                sys.stderr.write("igd: this algorithm has no joint chain of f and h, nothing is measured\n")

    def act(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures and logs the gauge."""
        check_finite(trainer, pl_module)
        policy = policy_of(pl_module)  # on all ranks
        found = whole(
            trainer,
            lambda: (
                gauge(policy, self.env, self.seed, self.effort, self._check_stop) if trainer.is_global_zero else None
            ),
        )
        if found is None:
            return
        measured = found.to_dict()
        del measured["passed"]
        values = {f"igd/{name}": value for name, value in measured.items() if value is not None}
        if self.env.law is not None:
            values["igd/coordination_gap"] = total_correlation(self.env.law)
        log_to_charts(trainer, values)
