"""A run ends when its score no longer rises, at the same step whether it was interrupted or not."""

from pathlib import Path
from typing import Any

import pytest
from lightning import Callback, Trainer

from callbacks.plateau import Plateau, rises
from callbacks.rollout import RolloutCallback
from dof_lightning.errors import UserError
from tests.fixtures.toy_world import ToyModule, toy_loader, toy_run
from tests.fixtures.trainers import quiet_trainer


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([], True),
        ([3.0, 2.0, 1.0], True),  # too few for two quarters
        ([0.0, 0.0, 1.0, 2.0], True),
        ([0.0, 0.0, 2.0, 2.0], False),
        ([9.0, 9.0, 9.0, 9.0, 1.0, 1.0, 2.0, 2.0], True),  # what was before the last half does not count
        ([0.0, 1.0, 2.0, 3.0, 5.0, 5.0, 4.0, 5.0], False),
    ],
)
def test_the_last_quarter_is_held_against_the_one_before(scores: list[float], expected: bool) -> None:
    assert rises(scores) is expected


def test_no_run_ends_before_the_least_steps() -> None:
    plateau = Plateau(600)
    assert [plateau.reached(1.0, step) for step in range(100, 800, 100)] == [False] * 5 + [True] * 2


def test_a_training_ends_at_its_plateau(tmp_path: Path) -> None:
    assert _steps(tmp_path, until_plateau=None) == 40
    assert _steps(tmp_path, until_plateau=16) < 40  # the toy's policy never changes, so its score never rises


def test_an_interrupted_run_has_the_scores_of_an_uninterrupted_one() -> None:
    whole, first, second = Plateau(1), Plateau(1), Plateau(1)
    scores = [0.0, 1.0, 3.0, 4.0, 6.0, 5.0, 5.0, 4.0, 4.0]
    expected = [whole.reached(score, step) for step, score in enumerate(scores, 1)]
    found = [first.reached(score, step) for step, score in enumerate(scores[:5], 1)]
    second.load_state_dict(first.state_dict())
    found += [second.reached(score, step) for step, score in enumerate(scores[5:], 6)]
    assert found == expected
    assert True in expected[5:]


@pytest.mark.parametrize("damaged", [{}, {"scores": 3}, {"scores": [1.0, None]}])
def test_damaged_scores_are_one_line(damaged: dict) -> None:
    with pytest.raises(UserError, match="RolloutCallback is damaged"):
        Plateau(1).load_state_dict(damaged)


def test_the_least_steps_must_be_positive() -> None:
    with pytest.raises(UserError, match=r"rollout\.until_plateau=0 must be at least 1"):
        RolloutCallback(toy_run(), 4, 4, until_plateau=0)


def test_a_run_that_ended_at_its_plateau_trains_no_further_when_resumed(tmp_path: Path) -> None:
    ended = _train(tmp_path, until_plateau=16)
    ended.save_checkpoint(tmp_path / "ended.ckpt")
    assert _train(tmp_path, 16, tmp_path / "ended.ckpt").global_step == ended.global_step
    assert _train(tmp_path, None, tmp_path / "ended.ckpt").global_step == 40


def test_scores_from_before_the_rule_was_typed_count(tmp_path: Path) -> None:
    """A run that got the rule on resuming ends where it would have with the rule from the start."""
    rollouts = RolloutCallback(toy_run(), 4, 4, chunk=4)
    trainer = quiet_trainer(max_steps=20, folder=tmp_path, callbacks=[rollouts])
    trainer.fit(ToyModule(), toy_loader())
    trainer.save_checkpoint(tmp_path / "without.ckpt")
    assert _train(tmp_path, 16, tmp_path / "without.ckpt").global_step == 20


def test_nothing_is_decided_between_two_rollouts(tmp_path: Path) -> None:
    """A run that was interrupted there goes on to the next rollout, as an uninterrupted one does."""
    rollouts = RolloutCallback(toy_run(), 4, 4, chunk=4, until_plateau=17)
    trainer = quiet_trainer(max_steps=40, folder=tmp_path, callbacks=[rollouts, _SaveAt(18, tmp_path / "between.ckpt")])
    trainer.fit(ToyModule(), toy_loader())
    assert trainer.global_step == 20
    assert _train(tmp_path, 17, tmp_path / "between.ckpt").global_step == 20


class _SaveAt(Callback):
    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def _steps(folder: Path, until_plateau: int | None) -> int:
    return _train(folder, until_plateau).global_step


def _train(folder: Path, until_plateau: int | None, checkpoint: Path | None = None) -> Trainer:
    rollouts = RolloutCallback(toy_run(), 4, 4, chunk=4, until_plateau=until_plateau)
    trainer = quiet_trainer(max_steps=40, folder=folder, callbacks=[rollouts])
    trainer.fit(ToyModule(), toy_loader(), ckpt_path=checkpoint)
    return trainer
