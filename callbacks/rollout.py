"""Rollouts of the policy while it learns, with their scores and the certificate of decentralised execution."""

import time
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torchmetrics import MaxMetric, SumMetric

from callbacks.context import RunContext, policy_of
from callbacks.finite import check_finite
from callbacks.plateau import Plateau
from callbacks.step_schedule import Scheduled, log_to_charts, whole
from dof_lightning.errors import UserError
from dof_lightning.rollout.certificate import Certificate, certify
from dof_lightning.rollout.metrics import EpisodeReturns, NormalizedScore, WinRate
from dof_lightning.rollout.run import Rollout, Spectator, evaluation_seeds, run_rollout, split_episodes

# Charts below the scores, the same for every algorithm: TensorBoard takes a chart's tags for regular expressions.
_LOSS_CHARTS: dict[str, list[Any]] = {
    "training and held-out": ["Multiline", [rf"{of}/(diffusion|inverse|cloning|value)$" for of in ("loss", "heldout")]],
    "values of Q": ["Multiline", ["q/value$", "q/target$"]],
}
_CERTIFIED_EPISODES, _CERTIFIED_PAIRS = 4, 32  # larger numbers would take as long as the rollouts


class RolloutCallback(Scheduled):
    """Plays decentralised rollouts every n steps and at the last step, with the episodes split over all ranks.

    The episodes are the *selection* episodes of the seed, the same every time and with the same noise, so that scores
    of different steps are comparable. Scores are logged at the number of optimiser steps done and are in
    `trainer.callback_metrics` before any checkpoint callback runs. Training is not affected: the same seed gives the
    same weights with and without this callback.

    Logs `rollout/return_mean`, `return_std`, `normalized_score` and `own_normalized_score` (if the environment has
    such reference scores), `win_rate` (if the task can be won), `steps_per_second`,
    `certificate_max_abs_delta`, `centralized` (1 if the agents act as one), `shared_seeds` (M, if they act on a
    common seed), and the constant lines `behavior_*` and `random_*`, on one chart with the scores. *Custom Scalars*
    shows those charts first, then training losses beside held-out losses.

    Args:
        run: provides the environment, the seed and the behaviour's return.
        episodes: number of episodes, over all ranks.
        every_n_steps: optimiser steps between rollouts.
        chunk: the largest number of episodes that go through the policy together; the unit of splitting over ranks.
        random_return: mean return of the random policy; None means the environment's own reference, or the published
            one.
        until_plateau: number of optimiser steps from which on the training ends once the score no longer rises
            (`Plateau`); None means that it ends at `trainer.max_steps`.

    Raises:
        UserError: `every_n_steps`, `chunk` or `until_plateau` is not positive.
    """

    needs_environment = True
    tags = "rollout/"

    def __init__(
        self,
        run: RunContext,
        episodes: int,
        every_n_steps: int,
        chunk: int = 50,
        random_return: float | None = None,
        until_plateau: int | None = None,
    ) -> None:
        super().__init__(every_n_steps, "rollout.every_n_steps")
        self._plateau = Plateau(until_plateau)
        self.env, self.seed, self.episodes, self._check_stop = run.env, run.seed, episodes, run.check_stop
        if chunk < 1:
            raise UserError(f"callbacks.rollout.chunk={chunk} must be at least 1")
        self.chunk = min(chunk, run.env.episodes_at_once)
        reference = run.env.spec.own_reference or run.env.spec.reference
        if random_return is None and reference is not None:
            random_return = reference.random
        self._lines = self._constant_lines(behavior=run.behavior_return, random=random_return)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts scores and lines on the same chart; ends a run that has reached its plateau (Lightning hook)."""
        super().on_train_start(trainer, pl_module)
        if self._plateau.is_over:
            trainer.should_stop = True
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_custom_scalars(self._layout())

    def act(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Plays the rollouts, and ends the training at a plateau."""
        measured = self._look(trainer, pl_module)
        headline = "rollout/return_mean" if self.env.spec.reference is None else "rollout/normalized_score"
        for name, value in measured.items():
            pl_module.log(name, value, prog_bar=name == headline, logger=False)

    def catch_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Repeats rollouts that were given up, before `log` has a loop that the values could belong to."""
        if self.owed:
            self.owed = False
            measured = self._look(trainer, pl_module)
            trainer.callback_metrics.update({name: torch.tensor(value) for name, value in measured.items()})

    def _look(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        check_finite(trainer, pl_module)
        measured = self._measure(trainer, pl_module) | self._lines
        log_to_charts(trainer, measured)
        if self._plateau.reached(measured["rollout/return_mean"], trainer.global_step):
            trainer.should_stop = True
        return measured

    def state_dict(self) -> dict[str, Any]:
        """Returns whether a rollout is owed, and the scores so far, which may end a resumed run (Lightning hook)."""
        return super().state_dict() | self._plateau.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores both (Lightning hook)."""
        super().load_state_dict(state_dict)
        if set(state_dict) != {"owed"}:  # else it is of a version that stored scores only if they could end the run
            self._plateau.load_state_dict(state_dict)

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        policy = policy_of(pl_module)
        episodes = split_episodes(self.episodes, self.chunk, trainer.global_rank, trainer.world_size)
        seeds = evaluation_seeds(self.seed, "selection", self.episodes)[episodes.start : episodes.stop]
        spectator = Spectator(before_step=self._check_stop)

        def play() -> tuple[Rollout, float, Certificate]:
            key, started = (self.seed, "rollout", "selection"), time.perf_counter()
            rollout = run_rollout(
                policy, self.env, seeds, key, self.chunk, first_episode=episodes.start, spectator=spectator
            )
            seconds = time.perf_counter() - started
            tried = certify(
                policy, self.env, self.seed, _CERTIFIED_EPISODES, _CERTIFIED_PAIRS, before_step=self._check_stop
            )
            return rollout, seconds, tried

        rollout, seconds, certificate = whole(trainer, play)
        measured = self._reduce(rollout, seconds, pl_module)
        measured["certificate_max_abs_delta"] = certificate.max_abs_delta
        measured["centralized"] = float(not policy.acts_alone)
        if policy.shared_seeds is not None:
            measured["shared_seeds"] = float(policy.shared_seeds)
        return {f"rollout/{name}": value for name, value in measured.items()}

    def _reduce(self, rollout: Rollout, seconds: float, pl_module: LightningModule) -> dict[str, float]:
        device = pl_module.device
        returns, wins = EpisodeReturns().to(device), WinRate().to(device)
        steps, longest = SumMetric().to(device), MaxMetric().to(device)
        returns.update(rollout.returns)
        steps.update(rollout.steps)
        longest.update(seconds)
        wins.update(rollout.won if rollout.won is not None else torch.zeros(0, dtype=torch.bool))
        summary = returns.compute()
        measured = {
            "return_mean": float(summary["mean"]),
            "return_std": float(summary["std"]),
            "steps_per_second": float(steps.compute() / longest.compute()),
        }
        for name, reference in self.env.spec.references.items():
            score = NormalizedScore(reference).to(device)
            score.update(rollout.returns)
            measured[name] = float(score.compute())
        # A rank without episodes does not know whether episodes can be won, so all ranks exchange their answers.
        win_rate = float(wins.compute())
        return measured if win_rate != win_rate else measured | {"win_rate": win_rate}

    def _constant_lines(self, **returns: float | None) -> dict[str, float]:
        known = {who: value for who, value in returns.items() if value is not None}
        self._known = tuple(known)
        lines = {f"rollout/{who}_return": value for who, value in known.items()}
        for name, reference in self.env.spec.references.items():
            lines |= {f"rollout/{who}_{name}": reference.normalize(value) for who, value in known.items()}
        return lines

    def _layout(self) -> dict[str, dict[str, list[Any]]]:
        measured = {"return": "rollout/return_mean"}
        measured |= {name: f"rollout/{name}" for name in self.env.spec.references}
        charts = {
            kind: ["Multiline", [tag, *(f"rollout/{who}_{kind}" for who in self._known)]]
            for kind, tag in measured.items()
        }
        return {"rollout": charts, "loss": _LOSS_CHARTS}
