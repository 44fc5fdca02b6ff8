"""TensorBoard's HPARAMS tab: what a run was trained with, and how it ended."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from dof_lightning.plain import leaves

_SCORES = ("return_mean", "return_std", "normalized_score")


def log_hyperparameters(
    loggers: Sequence[Logger],
    config: Mapping[str, Any],
    scores: Mapping[str, Mapping[str, Any]],
    heldout: Mapping[str, float] | None,
) -> None:
    """Logs choices and numbers of a configuration beside the final scores, or the held-out losses in their place.

    Args:
        loggers: of the run; TensorBoard's are written to.
        config: resolved.
        scores: by checkpoint; numbers that are None are left out.
        heldout: losses of a run that was not evaluated.
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
            logger.log_hyperparams(parameters, metrics)
            logger.finalize("success")
