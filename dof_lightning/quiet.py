"""What libraries tell everybody and no user of this project can act on."""

import logging
import warnings

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
