"""The Trainer of a run, with the callbacks and loggers of its configuration."""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger

from callbacks.checkpoint import AtomicCheckpointIO
from callbacks.context import RunContext
from callbacks.interruption import TimeLimit
from dof_lightning.config import compose as configuration
from dof_lightning.errors import UserError
from dof_lightning.training.run_folder import is_first_process
from dof_lightning.training.strategies import accelerator, cluster_plugins, make_strategy


def make_trainer(
    config: Mapping[str, Any], run: RunContext, first: Sequence[Callback], last: Callback | None = None
) -> Trainer:
    """Completes `conf/trainer` with what every run has.

    Args:
        config: the resolved configuration.
        run: the context that callbacks receive.
        first: callbacks of every run; they run before those of the configuration.
        last: a callback that runs after them; callbacks that save checkpoints come after it, by Lightning's own order.

    Raises:
        UserError: Lightning refuses a value, or a callback does.
    """
    chosen, loggers = make_callbacks(config, run), make_loggers(config, run)
    return _make(config, [*first, *chosen], [] if last is None else [last], default_root_dir=run.folder, logger=loggers)


def try_out(config: Mapping[str, Any]) -> int:
    """Refuses values that Lightning would refuse, before any data are made.

    Args:
        config: the resolved configuration.

    Returns:
        the number of the run's processes.

    Raises:
        UserError: Lightning refuses a value.
    """
    trainer = _make(config, [], [], logger=False, enable_checkpointing=False)
    return int(trainer.world_size)


def _make(config: Mapping[str, Any], first: Sequence[Callback], last: Sequence[Callback], **more: Any) -> Trainer:
    settings = config["trainer"]
    try:
        limit = TimeLimit(settings["max_time"])
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise UserError(f"trainer.max_time={settings['max_time']} must be null or DD:HH:MM:SS") from error
    try:
        trainer: Trainer = configuration.build(settings)(
            callbacks=[*first, limit, *last],
            max_time=None,
            plugins=[AtomicCheckpointIO(), *cluster_plugins()],
            strategy=make_strategy(settings, config["distributed"]["timeout_seconds"]),
            max_epochs=-1,
            val_check_interval=config["validation"]["every_n_steps"] * settings["accumulate_grad_batches"],
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **accelerator(settings["accelerator"]),
            **more,
        )
    except (ValueError, TypeError, RuntimeError, OverflowError, ImportError, MisconfigurationException) as error:
        keys = ", ".join(f"{key}={settings[key]}" for key in ("accelerator", "devices", "num_nodes", "strategy"))
        raise UserError(f"trainer ({keys}): {' '.join(str(error).split())}") from error
    return trainer


def make_callbacks(config: Mapping[str, Any], run: RunContext, quiet: bool = False) -> list[Callback]:
    """Builds the callbacks of `conf/callbacks`, in their order in the configuration.

    A node without `_partial_` is a callback; one with it is called with `run` and returns one or several. Those that
    need an environment are left out, and named, if nothing is played (rollout=none). If data have yet to be
    built, callbacks are made twice, first with a stand-in for the dataset, so that they refuse mistakes early.

    Args:
        config: the resolved configuration.
        run: the context that they receive.
        quiet: whether to omit the line that names those left out.

    Raises:
        UserError: a callback refuses a value.
    """
    chosen = _built(config, "callbacks")
    unplayed = [] if configuration.rolls_out(config) else [name for name, made in chosen.items() if _plays(made)]
    if unplayed and is_first_process() and not quiet:
        sys.stderr.write(f"rollout=none: nothing is played, callbacks left out: {', '.join(unplayed)}\n")
    callbacks: list[Callback] = []
    for name, made in chosen.items():
        if name not in unplayed:
            made = _told(name, made, run) if isinstance(made, partial) else made
            callbacks.extend(made if isinstance(made, list) else [made])
    return callbacks


def _told(name: str, made: partial, run: RunContext) -> Any:
    if str(made.func.__module__).startswith("lightning."):
        raise UserError(f"callbacks.{name}: Lightning's own callbacks take no run; remove its _partial_: true")
    try:
        return made(run)
    except (TypeError, MisconfigurationException) as error:
        raise UserError(
            f"callbacks.{name}: {' '.join(str(error).split())}; with _partial_: true it is called with the run"
        ) from error


def _plays(made: Any) -> bool:
    return getattr(made.func if isinstance(made, partial) else made, "needs_environment", False)


def make_loggers(config: Mapping[str, Any], run: RunContext) -> list[Logger]:
    """Builds the loggers of `conf/logger`; a node with `_partial_` is called with the folder to save to.

    Raises:
        UserError: a logger refuses a value, or its package is not installed.
    """
    chosen = _built(config, "logger")
    return [_saving(name, made, run) if isinstance(made, partial) else made for name, made in chosen.items()]


def _built(config: Mapping[str, Any], group: str) -> dict[str, Any]:
    nodes = config[group].items()
    return {name: configuration.build(node, f"{group}.{name}") for name, node in nodes if node is not None}


def _saving(name: str, made: partial, run: RunContext) -> Any:
    try:
        return made(save_dir=run.folder)
    except (TypeError, ModuleNotFoundError, MisconfigurationException) as error:
        raise UserError(f"logger.{name}: {' '.join(str(error).split())}") from error
