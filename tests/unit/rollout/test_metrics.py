"""Metrics against their definitions, however the episodes are split."""

import pytest
import torch

from dof_lightning.rollout.metrics import EpisodeReturns, NormalizedScore, WinRate
from dof_lightning.spec import ReferenceScores

RETURNS = 500.0 + 50.0 * torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_mean_and_spread_equal_torch() -> None:
    metric = EpisodeReturns()
    for part in RETURNS.split(33):
        metric.update(part)
    summary = metric.compute()
    torch.testing.assert_close(summary["mean"], RETURNS.mean(), rtol=1e-12, atol=0.0)
    torch.testing.assert_close(summary["std"], RETURNS.std(correction=0), rtol=1e-9, atol=0.0)
    assert summary["count"] == 200


def test_spread_of_one_episode_is_zero() -> None:
    metric = EpisodeReturns()
    metric.update(torch.tensor([523.123456789]))
    assert metric.compute()["std"] == 0.0


def test_a_rank_without_episodes_changes_nothing() -> None:
    metric, same = EpisodeReturns(), EpisodeReturns()
    metric.update(RETURNS)
    same.update(RETURNS)
    same.update(RETURNS[:0])
    assert metric.compute() == same.compute()


@pytest.mark.parametrize(("episode_return", "score"), [(159.8, 0.0), (516.8, 100.0), (338.3, 50.0)])
def test_normalized_score(episode_return: float, score: float) -> None:
    metric = NormalizedScore(ReferenceScores(random=159.8, expert=516.8, source="test"))
    metric.update(torch.full((4,), episode_return, dtype=torch.float64))
    assert float(metric.compute()) == pytest.approx(score, abs=1e-9)


def test_win_rate() -> None:
    metric = WinRate()
    metric.update(torch.tensor([True, False, True, True]))
    metric.update(torch.zeros(0, dtype=torch.bool))
    assert metric.compute() == 0.75


def test_win_rate_without_battles_is_not_a_number() -> None:
    metric = WinRate()
    metric.update(torch.zeros(0, dtype=torch.bool))
    assert metric.compute().isnan()
