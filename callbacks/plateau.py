"""The end of a training whose score no longer rises."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from dof_lightning.errors import UserError


def rises(scores: Sequence[float]) -> bool:
    """Whether the mean of the last quarter of the scores exceeds that of the quarter before; True below 4 scores.

    Quarters are rounded down, so that both means have the same number of scores.
    """
    quarter = len(scores) // 4
    return quarter == 0 or fmean(scores[-quarter:]) > fmean(scores[-2 * quarter : -quarter])


class Plateau:
    """The scores of a run so far; they determine whether it may end.

    The scores are part of every checkpoint, so that an interrupted run ends at the same step as an uninterrupted one.

    Args:
        least_steps: number of optimiser steps before which no run ends; None means that none ends.

    Attributes:
        scores: those of the periodic rollouts, oldest first.
        step: number of optimiser steps at the last of them.

    Raises:
        UserError: `least_steps` is not positive.
    """

    def __init__(self, least_steps: int | None) -> None:
        if least_steps is not None and least_steps < 1:
            raise UserError(f"rollout.until_plateau={least_steps} must be at least 1; null trains trainer.max_steps")
        self.least_steps = least_steps
        self.scores: list[float] = []
        self.step = 0

    def reached(self, score: float, step: int) -> bool:
        """Adds the score of an optimiser step; returns True if the training may end there."""
        self.scores.append(score)
        self.step = step
        return self.is_over

    @property
    def is_over(self) -> bool:
        """Whether the training may end, at the last score; between two scores, nothing is decided."""
        return self.least_steps is not None and self.step >= self.least_steps and not rises(self.scores)

    def state_dict(self) -> dict[str, Any]:
        """Returns plain numbers for the checkpoint."""
        return {"scores": list(self.scores), "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the scores of an earlier part of the run.

        Raises:
            UserError: the checkpoint contains no scores.
        """
        scores, step = state_dict.get("scores"), state_dict.get("step", 0)  # earlier versions stored no step
        if not isinstance(scores, list) or not all(type(score) is float for score in scores):
            raise UserError("the checkpoint's state of RolloutCallback is damaged: scores is not a list of numbers")
        if type(step) is not int:
            raise UserError("the checkpoint's state of RolloutCallback is damaged: step is not an integer")
        self.scores, self.step = list(scores), step
