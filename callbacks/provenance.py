"""The provenance in every checkpoint that makes it usable on its own: configuration, dataset, versions."""

from collections.abc import Mapping
from typing import Any

from lightning import Callback, LightningModule, Trainer


class Provenance(Callback):
    """Stores plain containers under a key of every checkpoint.

    Args:
        key: a checkpoint key that nothing else uses.
        content: dicts, lists, numbers, strings and tensors only, so that checkpoints load with `weights_only=True`.
    """

    def __init__(self, key: str, content: Mapping[str, Any]) -> None:
        self._key, self._content = key, dict(content)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the content (Lightning hook)."""
        checkpoint[self._key] = self._content
