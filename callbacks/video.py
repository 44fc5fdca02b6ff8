"""An episode as a picture in TensorBoard and as a GIF file, without a video library."""

import logging
import sys
from pathlib import Path
from typing import cast

import numpy as np
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import FileWriter, SummaryWriter

from callbacks.context import RunContext, policy_of
from callbacks.step_schedule import Scheduled, whole
from dof_lightning.errors import UserError
from dof_lightning.files import write_atomically
from dof_lightning.pictures import encode_gif
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.rollout.run import Spectator, evaluation_seeds, run_rollout

_log = logging.getLogger(__name__)


class VideoCallback(Scheduled):
    """Makes a GIF of the first selection episode, every n steps and at the last step, on rank zero.

    Args:
        run: provides the environment, whose `render` needs no display, and the seed.
        every_n_steps: optimiser steps between videos.
        dirpath: folder of `step_<n>.gif`; None means `videos` in the trainer's default_root_dir.
        frames_per_second: playing speed.

    Raises:
        UserError: `every_n_steps` or `frames_per_second` is not positive.
    """

    needs_environment = True

    def __init__(
        self,
        run: RunContext,
        every_n_steps: int,
        dirpath: str | Path | None = None,
        frames_per_second: float = 10.0,
    ) -> None:
        super().__init__(every_n_steps, "video.every_n_steps")
        if not frames_per_second > 0:
            raise UserError(f"callbacks.video.frames_per_second={frames_per_second} must be above 0")
        self.env, self.seed, self.dirpath, self.frames_per_second = run.env, run.seed, dirpath, frames_per_second
        self._spectator = Spectator(draws=0, before_step=run.check_stop)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports if there is nothing to draw (Lightning hook)."""
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero and not self.env.can_render:
            sys.stderr.write(f"env={self.env.spec.name} cannot draw: no videos\n")

    def act(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Plays and draws an episode."""
        if not self.env.can_render:
            return
        policy = policy_of(pl_module)  # on all ranks
        frames = whole(trainer, lambda: self._draw(policy) if trainer.is_global_zero else None)
        if frames is None:
            return
        step, gif = trainer.global_step, encode_gif(frames, self.frames_per_second)
        folder = Path(trainer.default_root_dir) / "videos" if self.dirpath is None else Path(self.dirpath)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / f"step_{step}.gif", gif)
        except OSError as error:
            _log.warning("video %s was not written (%s); training continues", folder / f"step_{step}.gif", error)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                add_gif(logger.experiment, "rollout/video", gif, frames[0].shape, step)

    def _draw(self, policy: DecentralizedPolicy) -> list[np.ndarray] | None:
        seeds, key = evaluation_seeds(self.seed, "selection", 1), (self.seed, "rollout", "video")
        return run_rollout(policy, self.env, seeds, key, spectator=self._spectator).frames


def add_gif(writer: SummaryWriter, tag: str, gif: bytes, shape: tuple[int, ...], step: int) -> None:
    """Adds an encoded GIF as an image: TensorBoard passes the bytes to the browser, which plays them.

    `shape` is that of one picture, `[height, width, ...]`.
    """
    image = Summary.Image(height=shape[0], width=shape[1], colorspace=3, encoded_image_string=gif)
    cast(FileWriter, writer.file_writer).add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
