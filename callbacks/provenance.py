"""Puts into every checkpoint what is needed to use it alone: configuration, dataset, versions."""

from collections.abc import Mapping
from typing import Any

from lightning import Callback, LightningModule, Trainer

KEY = "dof_lightning"


class Provenance(Callback):
    """Stores plain containers under `checkpoint["dof_lightning"]`.

    Args:
        content: dicts, lists, numbers, strings and tensors only, so that checkpoints load with `weights_only=True`.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = dict(content)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the content (Lightning hook)."""
        checkpoint[KEY] = self._content
