"""One-shot matrix games."""

import pytest
import torch

from dof_lightning.envs.matrix_game import MatrixGame
from dof_lightning.errors import UserError

PAYOFF = [[1, 2, 3], [4, 5, 6]]


def test_everybody_earns_the_entry_of_the_joint_choice_once() -> None:
    env = MatrixGame("game", PAYOFF)
    joint = torch.cartesian_prod(torch.arange(2), torch.arange(3))
    assert env.reset(torch.arange(6)).shape == (6, 2, 1)
    result = env.step(joint)
    assert result.rewards.tolist() == [[value, value] for row in PAYOFF for value in row]
    assert bool(result.terminated.all())
    assert not bool(result.truncated.any())


def test_three_agents_read_a_table_three_deep() -> None:
    env = MatrixGame("game", [[[0, 1], [2, 3]], [[4, 5], [6, 7]]])
    env.reset(torch.arange(1))
    assert env.step(torch.tensor([[1, 0, 1]])).rewards.tolist() == [[5.0] * 3]


def test_scores_are_those_of_the_table_and_another_payoff_is_another_world() -> None:
    spec = MatrixGame("game", PAYOFF).spec
    assert spec.reference is not None
    assert [spec.reference.normalize(value) for value in (3.5, 6.0)] == [0.0, 100.0]
    assert spec.fingerprint != MatrixGame("game", [[1, 2, 3], [4, 5, 7]]).spec.fingerprint


@pytest.mark.parametrize("payoff", [[1, 2], [[1, 2], [3]], [[1, "x"], [0, 0]], [[1, float("nan")]], [[2, 2], [2, 2]]])
def test_what_is_no_game_is_refused(payoff: list) -> None:
    with pytest.raises(UserError, match=r"env\.payoff="):
        MatrixGame("game", payoff)


@pytest.mark.parametrize("actions", [[[0, 3]], [[-1, 0]], [[0, 0], [0, 0]]])
def test_choices_that_are_not_there_are_refused(actions: list) -> None:
    env = MatrixGame("game", PAYOFF)
    env.reset(torch.arange(1))
    with pytest.raises(ValueError, match="actions"):
        env.step(torch.tensor(actions))
