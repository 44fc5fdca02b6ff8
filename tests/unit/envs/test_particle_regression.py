"""Returns of uniform actions, against numbers measured with another simulator and printed on OMAR's dataset cards."""

import math
import os
from pathlib import Path

import pytest
import torch

from dof_lightning.envs.particle.env import HORIZON, ParticleEnv
from dof_lightning.seeding import make_generator

OMAR_PREY = Path(os.environ.get("DOF_OMAR_PREY", Path(__file__).parents[4] / "shared" / "data" / "omar_prey"))


def uniform_returns(task: str, prey: str | None, n_episodes: int) -> torch.Tensor:
    env = ParticleEnv(task, prey=prey)
    generator = make_generator("uniform", task)
    env.reset(torch.arange(n_episodes))
    returns = torch.zeros(n_episodes)
    for _ in range(HORIZON):
        actions = torch.rand(n_episodes, 3, 2, generator=generator) * 2 - 1
        returns += env.step(actions).rewards.mean(dim=1)
    return returns


def check(returns: torch.Tensor, mean: float, std: float, n_reference: int) -> None:
    standard_error = std * math.sqrt(1 / len(returns) + 1 / n_reference)
    assert abs(float(returns.mean()) - mean) < 3 * standard_error
    # Hits are rare and large: with the kurtosis of Tag's returns (13) the std of 5 000 episodes is known to 2.5 %.
    assert float(returns.std()) == pytest.approx(std, rel=0.12)


@pytest.mark.parametrize(
    ("task", "prey", "mean", "std"),
    [("spread", None, 160.08, 60.60), ("tag", "still", -4.86, 10.47), ("world", "still", -6.89, 5.72)],
)
def test_uniform_returns(task: str, prey: str | None, mean: float, std: float) -> None:
    check(uniform_returns(task, prey, 20_000), mean, std, n_reference=20_000)


@pytest.mark.parametrize(("task", "mean", "std"), [("tag", -4.18, 11.09), ("world", -6.81, 5.63)])
def test_uniform_returns_against_omars_prey(task: str, mean: float, std: float) -> None:
    path = OMAR_PREY / f"simple_{task}_pretrained_adv_model.pt"
    if not path.exists():
        pytest.skip(f"OMAR's prey is not at {path}: set DOF_OMAR_PREY to the folder that has it")
    check(uniform_returns(task, str(path), 5_000), mean, std, n_reference=5_000)
