"""TensorBoard's HPARAMS tab: the same columns, whichever run is read first."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from dof_lightning.training.loggers import METRICS, log_hyperparameters

PLAYED = {"return_mean": 1.0, "return_std": 0.5, "normalized_score": None}
WON = PLAYED | {"win_rate": 0.75}


def logged(folder: Path, score: dict[str, Any], heldout: dict[str, float] | None = None) -> EventAccumulator:
    config = {"choices": {"algorithm": "bc"}, "seed": 0, "algorithm": {"learning_rate": 0.1}, "data": {"episodes": 5}}
    scores = {} if heldout else {"last": score, "best": score}
    log_hyperparameters([TensorBoardLogger(folder, name="", version="")], config, scores, heldout)
    return EventAccumulator(str(folder)).Reload()


@pytest.mark.parametrize(
    ("score", "heldout", "told"),
    [
        (PLAYED, None, {"final/last_return_mean": 1.0}),
        (WON, None, {"final/last_win_rate": 0.75, "final/best_win_rate": 0.75}),
        ({}, {"heldout/diffusion": 0.25, "heldout/diffusion_agent_0": 0.125}, {"final/heldout/diffusion": 0.25}),
    ],
)
def test_every_run_announces_the_same_metrics(
    tmp_path: Path, score: dict[str, Any], heldout: dict[str, float] | None, told: dict[str, float]
) -> None:
    events = logged(tmp_path, score, heldout)
    content = events.summary_metadata[metadata.EXPERIMENT_TAG].plugin_data.content
    announced = metadata.parse_experiment_plugin_data(content)
    assert {info.name.tag for info in announced.metric_infos} == set(METRICS)
    assert {"algorithm.learning_rate", "choices.algorithm", "seed"} <= {info.name for info in announced.hparam_infos}
    assert {tag: events.Scalars(tag)[0].value for tag in told} == told
    assert "final/last_normalized_score" not in events.Tags()["scalars"]
    assert (tmp_path / "hparams.yaml").exists()
