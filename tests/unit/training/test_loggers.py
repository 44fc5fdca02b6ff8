"""TensorBoard's HPARAMS tab: the same columns, whichever run is read first."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import DATA_TYPE_STRING

from dof_lightning.config import compose as configuration
from dof_lightning.training.loggers import METRICS, PARAMETERS, log_hyperparameters

PLAYED = {"return_mean": 1.0, "return_std": 0.5, "normalized_score": None}
WON = PLAYED | {"win_rate": 0.75}


def logged(folder: Path, score: dict[str, Any], heldout: dict[str, float] | None = None) -> EventAccumulator:
    scores = {} if heldout else {"last": score, "best": score}
    return logged_of("bc", folder, scores, heldout)


def logged_of(
    algorithm: str, folder: Path, scores: dict[str, Any], heldout: dict[str, float] | None = None
) -> EventAccumulator:
    typed = [
        "experiment=mpe_spread_random",
        f"algorithm={algorithm}",
        "trainer.max_steps=7",
        "data.global_batch_size=96",
    ]
    config = configuration.to_plain(configuration.compose(["experiment=mpe_spread_random", *typed]))
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
    assert {tag: events.Scalars(tag)[0].value for tag in told} == told
    assert "final/last_normalized_score" not in events.Tags()["scalars"]
    assert (tmp_path / "hparams.yaml").exists()


@pytest.mark.parametrize(
    ("algorithm", "told"),
    [
        ("bc", {"algorithm": "bc", "dataset": "mpe_spread_random", "seed": 0.0, "steps": 7.0, "batch_size": 96.0}),
        ("dof_policy", {"noise_factorization": "wconcat", "data_factorization": "wconcat", "critics": "mixed"}),
        ("direct_value", {"algorithm": "direct_value", "learning_rate": 3e-3}),
    ],
)
def test_every_run_announces_the_same_parameters(tmp_path: Path, algorithm: str, told: dict[str, Any]) -> None:
    events = logged_of(algorithm, tmp_path, {"last": PLAYED, "best": PLAYED})
    contents = {tag: told.plugin_data.content for tag, told in events.summary_metadata.items()}
    announced = metadata.parse_experiment_plugin_data(contents[metadata.EXPERIMENT_TAG])
    assert {info.name for info in announced.hparam_infos} == set(PARAMETERS)
    values = metadata.parse_session_start_info_plugin_data(contents[metadata.SESSION_START_INFO_TAG]).hparams
    given = {name: getattr(value, value.WhichOneof("kind")) for name, value in values.items()}
    assert told.items() <= given.items()
    assert ("critics" in given) == (algorithm == "dof_policy"), "what an algorithm does not have has no value"
    kinds = {info.name: info.type for info in announced.hparam_infos}
    assert all(isinstance(value, str) == (kinds[name] == DATA_TYPE_STRING) for name, value in given.items())
