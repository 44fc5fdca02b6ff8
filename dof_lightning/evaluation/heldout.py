"""Held-out losses of a checkpoint, on episodes that were never trained on, without playing any."""

from collections.abc import Mapping
from typing import Any

import torch

from dof_lightning.checkpoints.checkpoint import Checkpoint, build_algorithm
from dof_lightning.config.compose import build
from dof_lightning.seeding import make_generator


def heldout_losses(checkpoint: Checkpoint, config: Mapping[str, Any], location: str) -> dict[str, float]:
    """The held-out losses of a checkpoint's averaged (EMA) weights, by TensorBoard tag.

    The windows and their noise are those of a validation pass on one rank, so the curves of a run on one rank end at
    these values. They are a function of checkpoint and configuration, independent of the devices that it was trained
    on.

    Args:
        checkpoint: the checkpoint with the weights.
        config: the run's configuration.
        location: the dataset's location.

    Returns:
        means over the held-out windows; empty if no episodes are held out.
    """
    algorithm = build_algorithm(checkpoint, config).eval()
    data = build(config["data"]["module"])(path=location, window=algorithm.window, seed=config["seed"])
    data.setup()
    sums: dict[str, float] = {}
    windows = 0
    with torch.no_grad():
        for index, batch in enumerate(data.heldout_batches()):
            losses = algorithm.heldout_losses(batch, make_generator(algorithm.seed, "heldout", index, 0))
            windows += batch.size
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value) * batch.size
    return {name: total / windows for name, total in sums.items()}
