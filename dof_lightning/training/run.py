"""One run from configuration to `results.json`: build, fit, evaluate, report."""

import inspect
import json
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningDataModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from rich.console import Console

from callbacks.agreement import Agreement
from callbacks.checkpoint import AtomicCheckpointIO, LastCheckpoint
from callbacks.interruption import Interruption, TimeLimit
from callbacks.provenance import Provenance
from callbacks.throughput import peak_memory_mb
from data_modules.source import DatasetSource
from data_modules.storage.manifest import DatasetManifest, read_manifest
from dof_lightning import console
from dof_lightning.algorithms.base import Algorithm
from dof_lightning.checkpoints import checkpoint as checkpoints
from dof_lightning.config import compose as configuration
from dof_lightning.config.action_kinds import check_action_kind
from dof_lightning.envs.base import VectorEnv
from dof_lightning.errors import UserError
from dof_lightning.evaluation.heldout import heldout_losses
from dof_lightning.evaluation.score import NOT_EVALUATED, cores_per_process, evaluate
from dof_lightning.files import write_atomically
from dof_lightning.seeding import derive_seed
from dof_lightning.spec import EnvSpec, check_compatible, check_same_world
from dof_lightning.training.fit import fit
from dof_lightning.training.loggers import log_hyperparameters, quieten
from dof_lightning.training.run_folder import RunFolder, Start, find_start, is_first_process
from dof_lightning.training.strategies import accelerator, cluster_plugins, make_strategy


@dataclass(frozen=True)
class Run:
    """Everything a run is made of.

    Attributes:
        config: the resolved configuration.
        start: where it lives and what it goes on from.
        manifest: of the dataset.
        env: where policies are rolled out.
        algorithm: what is trained.
        data: serves the windows.
        trainer: Lightning's, with all callbacks.
        interruption: knows whether a signal ended the training.
        resumed_from_step: steps done by earlier processes, None for a fresh run.
    """

    config: dict[str, Any]
    start: Start
    manifest: DatasetManifest
    env: VectorEnv
    algorithm: Algorithm
    data: LightningDataModule
    trainer: Trainer
    interruption: Interruption
    resumed_from_step: int | None


def run(cfg: DictConfig, study_dir: Path | None = None) -> Path:
    """Trains, evaluates and reports, in every process of the run.

    Args:
        cfg: the composed configuration.
        study_dir: of the study that the run is a cell of, which says all but its progress; None: a run of its own.

    Returns:
        the run's folder.

    Raises:
        UserError: something the user can mend; nothing has been trained then.
        SystemExit: a signal has ended the training, or another rank has died; the code says which.
    """
    started = time.monotonic()
    configuration.check(cfg)
    config = configuration.to_plain(cfg)
    quieten()
    screen = console.make_console(quiet=study_dir is not None or not is_first_process())
    start = find_start(config)
    if start.finished:
        screen.print(f"{start.folder.path} is finished: its numbers are in {start.folder.results}", soft_wrap=True)
        screen.print("a larger trainer.max_steps trains it further; another run_dir= starts afresh", soft_wrap=True)
        return start.folder.path
    try:
        job = build(config, start)
    except UserError:
        start.folder.discard_if_empty()
        raise
    if is_first_process():
        start.folder.open(config)
        _show_start(screen, job)
    last = next(callback for callback in job.trainer.checkpoint_callbacks if isinstance(callback, LastCheckpoint))
    signals = (lambda: job.interruption.received, lambda: last.saved_step)
    fit(job.trainer, job.algorithm, job.data, start, *signals, run_dir=study_dir or start.folder.path)
    if job.trainer.is_global_zero:
        finish(job, screen, started)
    return start.folder.path


def build(config: dict[str, Any], start: Start) -> Run:
    """Makes every part of a run and checks that they fit together.

    Raises:
        UserError: they do not.
    """
    env, manifest, algorithm = build_algorithm(config)
    data = configuration.build(config["data"]["module"])(
        path=manifest.location, window=algorithm.window, seed=config["seed"]
    )
    resumed_from_step = None
    if start.checkpoint is not None:
        checkpoint = checkpoints.read(start.checkpoint)
        checkpoints.check_continues(checkpoint, config, manifest.spec)
        checkpoints.load_weights(algorithm, checkpoint)
        resumed_from_step = checkpoint.step
    interruption = Interruption()
    ours = [interruption, Agreement(resumed_from_step)]
    trainer = _build_trainer(config, start.folder, manifest, env, ours)
    data.check_batch_size(trainer.world_size)
    torch.set_num_threads(cores_per_process(trainer.num_devices))
    return Run(config, start, manifest, env, algorithm, data, trainer, interruption, resumed_from_step)


def build_algorithm(config: Mapping[str, Any]) -> tuple[VectorEnv, DatasetManifest, Algorithm]:
    """World, dataset and untrained algorithm; the dataset is built if it is not there.

    Raises:
        UserError: they do not fit together, or the environment is to be played and cannot be.
    """
    env = checkpoints.build_env(config)
    check_action_kind(config, env.spec)
    if configuration.rolls_out(config):
        env.check_available()
    manifest = read_manifest(locate_dataset(config, env.spec))
    if configuration.rolls_out(config) or manifest.spec.environment.is_playable:
        check_compatible(manifest.spec, env.spec)
    torch.manual_seed(derive_seed(config["seed"], "weights"))
    return env, manifest, configuration.build(config["algorithm"])(spec=manifest.spec)


def locate_dataset(config: Mapping[str, Any], environment: EnvSpec | None = None) -> Path | str:
    """Where the dataset lies; it is built if it is one of ours and not there yet.

    Args:
        config: the resolved configuration.
        environment: where policies will be rolled out; nothing is built that does not fit it.

    Raises:
        UserError: it does not fit, is damaged, or cannot be built.
    """
    path = config["data"]["path"]
    if path is not None:
        return str(path)
    source: DatasetSource = configuration.build(config["data"]["source"])
    if environment is not None:
        check_same_world(source.name, source.environment.spec, environment)
    return source.ensure(progress=is_first_process())


def _build_trainer(
    config: dict[str, Any], folder: RunFolder, manifest: DatasetManifest, env: VectorEnv, ours: list[Callback]
) -> Trainer:
    factory = configuration.build(config["trainer"])
    available = {
        "env": env,
        "spec": manifest.spec,
        "behavior_return": manifest.behavior["return_mean"],
        "seed": config["seed"],
        "save_dir": folder.path,
        "dirpath": folder.checkpoints,
        "global_batch_size": config["data"]["global_batch_size"],
    }
    provenance = Provenance(checkpoints.KEY, checkpoints.describe(config, manifest.spec, manifest.behavior))
    callbacks: list[Callback] = [provenance, *ours]
    for node in filter(None, config["callbacks"].values()):
        callback = configuration.build(node)
        if not configuration.rolls_out(config) and "env" in inspect.signature(callback).parameters:
            continue
        made = _call_with_what_it_asks_for(callback, available)
        callbacks.extend(made if isinstance(made, list) else [made])
    loggers = [_call_with_what_it_asks_for(configuration.build(node), available) for node in config["logger"].values()]
    validation, batches_per_step = config["validation"], config["trainer"]["accumulate_grad_batches"]
    try:
        trainer: Trainer = factory(
            default_root_dir=folder.path,
            callbacks=[*callbacks, TimeLimit(config["trainer"]["max_time"])],
            max_time=None,
            logger=loggers,
            plugins=[AtomicCheckpointIO(), *cluster_plugins()],
            strategy=make_strategy(config["trainer"], config["distributed"]["timeout_seconds"]),
            max_epochs=-1,
            val_check_interval=validation["every_n_steps"] * batches_per_step,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **accelerator(config["trainer"]["accelerator"]),
        )
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error
    return trainer


def _call_with_what_it_asks_for(factory: Callable[..., Any], available: Mapping[str, Any]) -> Any:
    wanted = inspect.signature(factory).parameters
    given = getattr(factory, "keywords", {})
    return factory(**{name: value for name, value in available.items() if name in wanted and name not in given})


def finish(job: Run, screen: Console, started: float) -> None:
    """Evaluates last and best on the report seeds, writes `results.json`, shows the table and what to type next.

    Where nothing is played (rollout=none), held-out losses of the last checkpoint take the place of scores.
    """
    folder, limits = job.start.folder, job.config["trainer"]
    last = _last_checkpoint(job)
    plays = configuration.rolls_out(job.config)
    scores = _evaluate(job, last) if plays else {which: dict(NOT_EVALUATED) for which in ("last", "best")}
    heldout = None if plays else heldout_losses(last, job.config, job.manifest.location)
    seconds = time.monotonic() - started
    results = {
        "algorithm": job.config["choices"]["algorithm"],
        "experiment": job.config["choices"]["experiment"],
        "dataset_fingerprint": job.manifest.spec.fingerprint,
        "seed": job.config["seed"],
        "steps": last.step,
        "windows": last.step * job.config["data"]["global_batch_size"] * job.trainer.accumulate_grad_batches,
        "started_at": round(time.time() - seconds, 2),
        "wall_seconds": round(seconds, 2),
        "peak_memory_mb": round(peak_memory_mb(job.trainer.strategy.root_device), 1),
        "resumed_from_step": job.resumed_from_step,
        **scores,
        **({} if heldout is None else {"heldout": heldout}),
        "behavior": _describe_behavior(job),
    }
    log_hyperparameters(job.trainer.loggers, job.config, scores, heldout)
    write_atomically(folder.results, json.dumps(results, indent=2) + "\n")
    data = job.manifest
    console.show_scores(screen, scores, data.behavior, job.env.spec if plays else data.spec.environment)
    if heldout is not None:
        console.show_heldout(screen, heldout)
    overrides = shlex.join(
        a
        for a in configuration.typed()
        if not a.startswith(("run_dir=", "resume=", "trainer.max_steps=", "trainer.max_time="))
    )
    console.show_next_commands(screen, folder.path, overrides, "best" if plays else "last")
    if last.step < limits["max_steps"]:
        stopped = f"stopped by trainer.max_time={limits['max_time']} at step {last.step:,} of {limits['max_steps']:,}"
        screen.print(f"{stopped}; a longer one with run_dir={folder.path} goes on", highlight=False, soft_wrap=True)


def _evaluate(job: Run, last: checkpoints.Checkpoint) -> dict[str, dict[str, Any]]:
    folder, scores = job.start.folder, {"last": evaluate(last, job.config).to_dict()}
    best = checkpoints.read(folder.best) if folder.best.exists() else last
    scores["best"] = scores["last"] if best.step == last.step else evaluate(best, job.config).to_dict()
    return scores


def _last_checkpoint(job: Run) -> checkpoints.Checkpoint:
    """What training ended with.

    Raises:
        UserError: there was no step, or its checkpoint could not be saved: results would be those of an earlier one.
    """
    path, step = job.start.folder.last, job.trainer.global_step
    if step == 0:
        limit = job.config["trainer"]["max_time"]
        raise UserError(f"trainer.max_time={limit} was over before the first step; choose a longer one")
    last = checkpoints.read(path) if path.exists() else None
    if last is None or last.step != step:
        kept = "no checkpoint" if last is None else f"the checkpoint of step {last.step:,}"
        raise UserError(
            f"{path} could not be saved at step {step:,}, there is {kept}; make room on the disk, "
            f"then the same command with run_dir={job.start.folder.path} goes on"
        )
    return last


def _describe_behavior(job: Run) -> dict[str, Any]:
    behavior, references = job.manifest.behavior, job.manifest.spec.environment.references
    scores = {name: reference.normalize(behavior["return_mean"]) for name, reference in references.items()}
    return {
        "episodes": job.manifest.n_episodes,
        "return_mean": behavior["return_mean"],
        "return_std": behavior["return_std"],
        "normalized_score": None,
        **{key: behavior[key] for key in ("win_rate",) if key in behavior},
    } | scores


def _show_start(screen: Console, job: Run) -> None:
    trainer = job.trainer
    processes, threads = trainer.world_size, torch.get_num_threads()
    hardware = f"{processes} x {type(trainer.accelerator).__name__.removesuffix('Accelerator').lower()}"
    hardware += f", {type(trainer.strategy).__name__}, {threads} threads each, precision {trainer.precision}"
    done = job.resumed_from_step
    where = f"{'from the start' if done is None else f'going on from step {done:,}'}, in {job.start.folder.path}"
    console.show_start(screen, job.config, job.manifest.spec, job.algorithm, hardware, where)
