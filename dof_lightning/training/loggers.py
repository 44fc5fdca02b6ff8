"""The loggers' view of a run: its parameters beside its final scores, without warnings that no user can act on."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from dof_lightning.training.resumed_loggers import ResumedWandbLogger

_SCORES = ("return_mean", "return_std", "normalized_score", "own_normalized_score", "win_rate")
_HELDOUT = ("heldout/diffusion", "heldout/inverse", "heldout/cloning", "heldout/value")
# The page takes its columns from the first run that it reads, so every run announces the metrics of all runs.
METRICS = tuple(f"final/{name}" for name in (*(f"{w}_{name}" for w in ("last", "best") for name in _SCORES), *_HELDOUT))

# Every run likewise announces the parameters of all, each with the kind of its values.
PARAMETERS: Mapping[str, type[str] | type[float]] = {
    **dict.fromkeys(("algorithm", "dataset", "noise_factorization", "data_factorization", "critics"), str),
    **dict.fromkeys(("seed", "q_weight", "learning_rate", "batch_size", "steps"), float),
}


def log_hyperparameters(
    loggers: Sequence[Logger],
    config: Mapping[str, Any],
    scores: Mapping[str, Mapping[str, Any]],
    heldout: Mapping[str, float] | None,
    step: int = 0,
) -> None:
    """Logs the parameters that people compare, beside the final scores or held-out losses.

    In TensorBoard all runs announce the same `PARAMETERS` and `METRICS`, whether they have them or not: parameters that
    an algorithm lacks, and scores that are None, have no value. Other loggers have the parameters from the start
    (`announce_parameters`). `heldout` holds the losses of a run that was not evaluated, `step` is the last step.
    """
    parameters = _parameters(config)
    metrics = {
        f"final/{which}_{name}": float(score[name])
        for which, score in scores.items()
        for name in _SCORES
        if score.get(name) is not None
    }
    metrics |= {f"final/{name}": value for name, value in (heldout or {}).items()}
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_metrics(metrics)
            writer = logger.experiment._get_file_writer()  # as in Lightning, which announces no metrics without a value
            announced = {name: kind() for name, kind in PARAMETERS.items()}
            columns, *_ = hparams(announced, dict.fromkeys(METRICS, 0.0))  # type: ignore[no-untyped-call]
            _, *session = hparams(parameters, {})  # type: ignore[no-untyped-call]
            for summary in (columns, *session):
                writer.add_summary(summary)
            logger.hparams.update(parameters)
            logger.finalize("success")
        else:
            logger.log_metrics(metrics, step=step)
            logger.finalize("success")
        if isinstance(logger, ResumedWandbLogger):
            logger.finish()


def announce_parameters(loggers: Sequence[Logger], config: Mapping[str, Any]) -> None:
    """Logs the parameters that people compare before the training, so that unfinished runs can be distinguished.

    TensorBoard gets them at the end, beside the final metrics.

    Raises:
        UserError: a server cannot be reached.
    """
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(_parameters(config))


def _parameters(config: Mapping[str, Any]) -> dict[str, str | float]:
    """The `PARAMETERS` that a run has, with their values."""
    choices, algorithm = config["choices"], config["algorithm"]
    values = {
        "algorithm": choices["algorithm"],
        "dataset": choices["data"],
        "seed": config["seed"],
        **{part: choices[part] for part in ("noise_factorization", "data_factorization") if part in algorithm},
        **{key: algorithm.get(key) for key in ("critics", "q_weight")},
        "learning_rate": algorithm.get("learning_rate", algorithm.get("value_learning_rate")),
        "batch_size": config["data"]["global_batch_size"],
        "steps": config["trainer"]["max_steps"],
    }
    return {name: PARAMETERS[name](value) for name, value in values.items() if value is not None}


_NOISE_TO_USERS = (
    "The 'train_dataloader' does not have many workers",
    "The 'val_dataloader' does not have many workers",
    "The number of training batches .* is smaller than the logging interval",
    "Found .* module\\(s\\) in eval mode at the start of training",
    "The ``compute`` method of metric WinRate was called before the ``update`` method",
    "You're resuming from a checkpoint that ended before the epoch ended",  # our loaders start at the trainer's step
    "Total length of `list` across ranks is zero",
    "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint.*'TimeLimit'",
    "Checkpoint directory .* exists and is not empty",
    "It is recommended to use `self.log.*sync_dist=True`",
    "FSDP2-wrapped module .* returned a view tensor",  # none is changed in place
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
)


def quieten() -> None:
    """Silences, one by one, library warnings that users of this project cannot act on."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _NOISE_TO_USERS:
        warnings.filterwarnings("ignore", message=f".*{message}")
