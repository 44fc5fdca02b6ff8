"""A reported score is that of episodes which selected nothing, with a certificate that can be False."""

import pytest

from dof_lightning import console
from dof_lightning.evaluation.score import score
from dof_lightning.rollout.run import evaluation_seeds, run_rollout
from tests.fixtures.toy_world import ToyEnv, ToyPolicy

CONFIG = {"seed": 0, "rollout": {"report_episodes": 10}}
BEHAVIOR = {"return_mean": 1.0, "return_std": 0.5}


def test_a_score_is_that_of_the_report_episodes() -> None:
    env, policy = ToyEnv(early=True, battle=True), ToyPolicy().eval()
    found = score(policy, env, CONFIG)
    report, selection = (
        run_rollout(policy, env, evaluation_seeds(0, which, 10), (0, "report")) for which in ("report", "selection")
    )
    assert report.returns.mean() != selection.returns.mean(), "nothing to tell apart"
    assert found.episodes == 10
    assert found.return_mean == pytest.approx(float(report.returns.mean()))
    assert found.return_std == pytest.approx(float(report.returns.std(correction=0)))
    assert report.won is not None
    assert found.win_rate == pytest.approx(float(report.won.float().mean()))
    assert found.certificate["passed"]


def test_agents_that_look_at_each_other_are_not_reported_as_certified() -> None:
    found = score(ToyPolicy("observation").eval(), ToyEnv(), CONFIG)
    assert not found.certificate["passed"]
    assert console.acts_alone(found.to_dict()).startswith("NO (delta 0.")


def test_what_runs_centralised_is_labelled_where_its_numbers_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    class Together(ToyPolicy):
        acts_alone = False

    found = score(Together().eval(), ToyEnv(), CONFIG).to_dict()
    console.show_scores(console.make_console(), {"last": found}, BEHAVIOR, ToyEnv().spec)
    shown = capsys.readouterr().out
    assert "last (centralised)" in shown
    assert "NO, centralised" in shown
