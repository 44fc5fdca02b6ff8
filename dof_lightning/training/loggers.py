"""What a run tells: TensorBoard's HPARAMS tab, and nothing that no user can act on."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from dof_lightning.config.identity import leaves

_SCORES = ("return_mean", "return_std", "normalized_score", "own_normalized_score", "win_rate")
_HELDOUT = ("heldout/diffusion", "heldout/inverse", "heldout/cloning", "heldout/value")
# The page takes its columns from one run, whichever comes first: every run announces the metrics of all.
METRICS = tuple(f"final/{name}" for name in (*(f"{w}_{name}" for w in ("last", "best") for name in _SCORES), *_HELDOUT))


def log_hyperparameters(
    loggers: Sequence[Logger],
    config: Mapping[str, Any],
    scores: Mapping[str, Mapping[str, Any]],
    heldout: Mapping[str, float] | None,
) -> None:
    """Logs choices and numbers of a configuration beside the final scores, or held-out losses, to TensorBoard.

    All runs announce the same `METRICS`, whichever they have; scores that are None have no value. `heldout` is of a run
    that was not evaluated.
    """
    described = {key: config[key] for key in ("choices", "seed", "algorithm")}
    described |= {"data": {key: config["data"].get(key) for key in ("episodes", "global_batch_size")}}
    parameters = {key: value for key, value in leaves(described) if isinstance(value, (int, float, str))}
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
            writer = logger.experiment._get_file_writer()  # as Lightning does, which announces what has a value only
            for summary in hparams(parameters, dict.fromkeys(METRICS, 0.0)):  # type: ignore[no-untyped-call]
                writer.add_summary(summary)
            logger.hparams.update(parameters)
            logger.finalize("success")


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
    """Hides what Lightning tells everybody and no user of this command can act on, message by message."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _NOISE_TO_USERS:
        warnings.filterwarnings("ignore", message=f".*{message}")
