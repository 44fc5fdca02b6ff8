"""One run, from its configuration to `results.json`: build, fit, evaluate, report."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, Trainer
from omegaconf import DictConfig
from rich.console import Console

from callbacks.agreement import Agreement
from callbacks.checkpoint import LastCheckpoint
from callbacks.context import RunContext
from callbacks.first_batch import FirstBatch
from callbacks.interruption import Interruption
from callbacks.provenance import Provenance
from callbacks.throughput import device_name, peak_memory_mb
from data_modules.storage.manifest import DatasetManifest
from dof_lightning import console
from dof_lightning.algorithms.base import Algorithm
from dof_lightning.checkpoints import checkpoint as checkpoints
from dof_lightning.checkpoints import trust, warm_start
from dof_lightning.config import checks
from dof_lightning.config import compose as configuration
from dof_lightning.config.command_line import for_hydra, for_shell
from dof_lightning.envs.base import VectorEnv
from dof_lightning.errors import UserError
from dof_lightning.evaluation.heldout import heldout_losses
from dof_lightning.evaluation.score import NOT_EVALUATED, cores_per_process, evaluate
from dof_lightning.spec import DatasetSpec
from dof_lightning.training import preparation
from dof_lightning.training.fit import fit
from dof_lightning.training.loggers import announce_parameters, log_hyperparameters, quieten
from dof_lightning.training.results_file import write_results
from dof_lightning.training.resumed_loggers import resume_from
from dof_lightning.training.run_folder import is_first_process
from dof_lightning.training.start import Start, command_further, find_start, set_aside_best
from dof_lightning.training.strategies import as_launched
from dof_lightning.training.trainer import make_callbacks, make_loggers, make_trainer, try_out


@dataclass(frozen=True)
class Run:
    """The parts of a run.

    Attributes:
        start: the run's folder and the checkpoint it resumes from.
        env: the environment in which policies are rolled out.
        interruption: reports whether a signal ended the training.
        resumed_from_step: number of steps of earlier processes, None for a fresh run.
        init_from: record of the weights the run was started with (`warm_start.start_from`), None for new ones.
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
    init_from: dict[str, Any] | None


def run(cfg: DictConfig, typed: Sequence[str], study_dir: Path | None = None) -> Path:
    """Trains, evaluates and reports, in every process of the run.

    Args:
        cfg: the composed configuration.
        typed: the overrides it was composed from, for the commands that are shown at the end.
        study_dir: folder of the study that the run belongs to, which reports everything but the run's progress; None:
            no study.

    Returns:
        the run's folder.

    Raises:
        UserError: a mistake that the user can fix; nothing has been trained.
        SystemExit: a signal has ended the training, or another rank has died; the exit code distinguishes them.
    """
    started = time.monotonic()
    checks.check(cfg, everything_read=study_dir is None)
    config = as_launched(configuration.to_plain(cfg))
    quieten()
    screen = console.make_console(quiet=study_dir is not None or not is_first_process())
    start = find_start(config)
    if start.finished:
        screen.print(f"{start.folder.path} is finished; its results are in {start.folder.results}", soft_wrap=True)
        screen.print("a larger trainer.max_steps trains it further; another run_dir= starts afresh", soft_wrap=True)
        return start.folder.path
    try:
        job = build(config, start)
    except UserError:
        start.folder.discard_if_empty()
        raise
    if is_first_process():
        if job.resumed_from_step not in (None, config["trainer"]["max_steps"]):
            set_aside_best(start.folder.best, config, resumed=start.checkpoint)
        if not start.folder.results.exists():
            start.folder.open(config)
        if config["trust"]:
            trust.remember(str(start.folder.path.resolve()), config)
        _show_start(screen, job)
    announce_parameters(job.trainer.loggers, config)
    last = next(callback for callback in job.trainer.checkpoint_callbacks if isinstance(callback, LastCheckpoint))
    try:
        fit(
            job.trainer,
            job.algorithm,
            job.data,
            start,
            received=lambda: job.interruption.received,
            saved_step=lambda: last.saved_step,
            run_dir=study_dir or start.folder.path,
        )
    finally:
        job.interruption.give_back()
    if job.trainer.is_global_zero:
        if start.folder.results.exists():  # of a shorter run, and no batch has arrived: its plateau was over
            start.folder.open(config)
        finish(job, typed, screen, started)
    return start.folder.path


def build(config: dict[str, Any], start: Start) -> Run:
    """Builds every part of a run and checks that they fit together; checks that need no data come before any exist.

    Raises:
        UserError: they do not fit.
    """
    serving = configuration.build(config["data"]["module"])
    serving.check_batch_size(try_out(config))
    checkpoint = None if start.checkpoint is None else checkpoints.read(start.checkpoint)
    if checkpoint is not None:
        checkpoints.check_continues(checkpoint, config)
    source, init_from = warm_start.beginning(config["init_from"], resumed_from=checkpoint)
    interruption = Interruption()

    def context(spec: DatasetSpec, behavior_return: float | None) -> RunContext:
        return RunContext(
            env=env,
            spec=spec,
            behavior_return=behavior_return,
            seed=config["seed"],
            folder=start.folder.path,
            checkpoints=start.folder.checkpoints,
            global_batch_size=config["data"]["global_batch_size"],
            check_stop=interruption.check_stop,
        )

    def try_others(spec: DatasetSpec, algorithm: Algorithm) -> None:
        if source is not None:
            warm_start.start_from(algorithm, source, config["init_from"])
        make_callbacks(config, context(spec, None), quiet=True)
        make_loggers(config, context(spec, None))

    env = preparation.build_world(config)
    preparation.rehearse(config, env, try_others)
    if checkpoint is None:
        preparation.play_once(config, env)
    manifest, algorithm = preparation.build_algorithm(config, env)
    data = serving(path=manifest.location, window=algorithm.window, seed=config["seed"])
    if source is not None:
        init_from = warm_start.start_from(algorithm, source, config["init_from"])
    if checkpoint is not None:
        checkpoints.check_continues(checkpoint, config, manifest.spec)
        _check_steps_left(checkpoint, config["trainer"]["max_steps"], start)
        checkpoints.load_weights(algorithm, checkpoint)
    resumed_from_step = None if checkpoint is None else checkpoint.step
    provenance = Provenance(checkpoints.KEY, checkpoints.describe(config, manifest.spec, manifest.behavior, init_from))
    run_context = context(manifest.spec, manifest.behavior["return_mean"])
    replace_results = FirstBatch(lambda: start.folder.open(config))
    first = [provenance, Agreement(resumed_from_step), replace_results]
    trainer = make_trainer(config, run_context, first, interruption)
    resume_from(trainer.loggers, resumed_from_step)
    torch.set_num_threads(cores_per_process(trainer.num_devices))
    return Run(config, start, manifest, env, algorithm, data, trainer, interruption, resumed_from_step, init_from)


def finish(job: Run, typed: Sequence[str], screen: Console, started: float) -> None:
    """Evaluates last and best on the report seeds, writes `results.json`, shows the table and the next commands.

    If nothing is played (rollout=none), held-out losses of the last checkpoint take the place of scores.
    """
    folder, limits = job.start.folder, job.config["trainer"]
    last = _last_checkpoint(job)
    plays = configuration.rolls_out(job.config)
    scores = _evaluate(job, last) if plays else {which: dict(NOT_EVALUATED) for which in ("last", "best")}
    heldout = None if plays else heldout_losses(last, job.config, job.manifest.location)
    seconds = time.monotonic() - started
    results = {
        "algorithm": job.config["choices"]["algorithm"],
        "experiment": configuration.task_name(job.config),
        "dataset_fingerprint": job.manifest.spec.fingerprint,
        "seed": job.config["seed"],
        "steps": last.step,
        "windows": last.step * job.config["data"]["global_batch_size"] * job.trainer.accumulate_grad_batches,
        "started_at": round(time.time() - seconds, 2),
        "wall_seconds": round(seconds, 2),
        "peak_memory_mb": round(peak_memory_mb(job.trainer.strategy.root_device), 1),
        "device": device_name(job.trainer.strategy.root_device, job.trainer.world_size),
        "resumed_from_step": job.resumed_from_step,
        **({} if job.init_from is None else {"init_from": job.init_from}),
        **scores,
        **({} if heldout is None else {"heldout": {k: v if math.isfinite(v) else None for k, v in heldout.items()}}),
        "behavior": _describe_behavior(job),
    }
    log_hyperparameters(job.trainer.loggers, job.config, scores, heldout, last.step)
    write_results(folder.results, results)
    data = job.manifest
    shown = scores if plays else {"last": scores["last"]}
    console.show_scores(screen, shown, data.behavior, job.env.spec if plays else data.spec.environment)
    if heldout is not None:
        console.show_heldout(screen, heldout)
    further = command_further(folder.path, typed, last.step, limits["max_steps"])
    console.show_next_commands(screen, _next_commands(job, further))
    if last.step < limits["max_steps"]:
        ends = {"trainer.max_time": limits["max_time"], "rollout.until_plateau": job.config["rollout"]["until_plateau"]}
        by = " or ".join(f"{key}={value}" for key, value in ends.items() if value is not None)
        stopped = f"stopped by {by} at step {last.step:,} of {limits['max_steps']:,}"
        again = for_shell(for_hydra("run_dir", folder.path))
        screen.print(f"{stopped}; {again} with a larger or no limit resumes it", highlight=False, soft_wrap=True)


def _evaluate(job: Run, last: checkpoints.Checkpoint) -> dict[str, dict[str, Any]]:
    folder, scores = job.start.folder, {"last": evaluate(last, job.config).to_dict()}
    best = checkpoints.read(folder.best) if folder.best.exists() else last
    scores["best"] = scores["last"] if best.step == last.step else evaluate(best, job.config).to_dict()
    return scores


def _next_commands(job: Run, further: Sequence[str]) -> dict[str, Sequence[str]]:
    """The commands that a user may want next, by purpose, as far as they apply to this run."""
    folder, commands = job.start.folder, dict[str, Sequence[str]]()
    if "tensorboard" in (job.config["logger"] or {}):
        commands["curves and videos"] = ("tensorboard", "--logdir", str(folder.path))
    commands["train further"] = further
    checkpoint = f"checkpoint={folder.best_or_last}"
    if job.config["choices"]["env"] == "_recorded":  # there is no environment to evaluate in
        commands["export agents"] = ("dof", "export", checkpoint)
    else:
        commands["evaluate again" if configuration.rolls_out(job.config) else "evaluate"] = ("dof", "eval", checkpoint)
    return commands


def _check_steps_left(checkpoint: checkpoints.Checkpoint, max_steps: int, start: Start) -> None:
    """Refuses to continue another run's checkpoint in a folder of its own if there is nothing left to train.

    Raises:
        UserError: no step would be made, and so nothing be saved there.
    """
    if checkpoint.step >= max_steps and checkpoint.path.resolve() != start.folder.last.resolve():
        raise UserError(
            f"resume={checkpoint.path} has {checkpoint.step} steps already, trainer.max_steps={max_steps} leaves none "
            "to train; type more, or evaluate it with dof eval"
        )


def _last_checkpoint(job: Run) -> checkpoints.Checkpoint:
    """The checkpoint that training ended with.

    Raises:
        UserError: no step was made, or its checkpoint could not be saved, so results would be those of an earlier one.
    """
    path, step = job.start.folder.last, job.trainer.global_step
    if step == 0:
        limit = job.config["trainer"]["max_time"]
        raise UserError(f"trainer.max_time={limit} ended before the first step; choose a longer one")
    last = checkpoints.read(path) if path.exists() else None
    if last is None or last.step != step:
        kept = "no checkpoint" if last is None else f"the checkpoint of step {last.step:,}"
        raise UserError(
            f"{path} could not be saved at step {step:,}, there is {kept}; free some disk space, "
            f"then the same command with {for_shell(for_hydra('run_dir', job.start.folder.path))} resumes it"
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
        **({} if behavior.get("win_rate") is None else {"win_rate": behavior["win_rate"]}),
    } | scores


def _show_start(screen: Console, job: Run) -> None:
    trainer, threads = job.trainer, torch.get_num_threads()
    hardware = f"{trainer.world_size} x {type(trainer.accelerator).__name__.removesuffix('Accelerator').lower()}"
    hardware += f", {type(trainer.strategy).__name__}, {threads} threads each, precision {trainer.precision}"
    begun = warm_start.described(job.init_from, job.resumed_from_step)
    where = f"{begun}, in {job.start.folder.path}"
    console.show_start(screen, job.config, job.manifest.spec, job.algorithm, hardware, where)
