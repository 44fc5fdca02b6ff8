"""Centralised execution is never mistaken for the decentralised one: table, results, curves and export report it."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.fixtures.workplace import SMALL, Workplace, succeeded

RUN_DIR = "centralized"


@pytest.mark.slow
def test_centralized_execution_is_labelled_wherever_its_numbers_appear(workplace: Workplace) -> None:
    typed = ("noise_factorization=attention", "execution=centralized", "trainer.max_steps=20", f"run_dir={RUN_DIR}")
    printed = succeeded(workplace.train(*SMALL, *typed))
    assert "last (centralised)" in printed
    assert workplace.results(RUN_DIR)["last"]["execution"] == "centralized"
    curves = EventAccumulator(str(workplace.path / RUN_DIR))
    curves.Reload()
    assert {event.value for event in curves.Scalars("rollout/centralized")} == {1.0}

    checkpoint = f"checkpoint={RUN_DIR}/checkpoints/last.ckpt"
    evaluated = workplace.dof("eval", checkpoint, "rollout.report_episodes=2")
    assert json.loads(succeeded(evaluated))["execution"] == "centralized"
    assert "(centralised)" in evaluated.stderr
    refused = workplace.dof("export", checkpoint)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "nothing to export" in refused.stderr


def test_decentralized_execution_has_nothing_to_say(workplace: Workplace, finished: str) -> None:
    assert "execution" not in workplace.results(finished)["last"]
