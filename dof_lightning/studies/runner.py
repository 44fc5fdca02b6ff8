"""The runner of a study: runs its cells one after another, resumes an interrupted study, and reports.

<run_dir>/
    config.yaml                 the study's resolved configuration
    <labels>__seed_<n>/         one run folder per cell, with `measured.json` beside its `results.json`
    table.md, table.csv         the report
    figure.png                  the same figure as in TensorBoard, if there is one
    events.out.tfevents.*       table and figure
    results.json                written last: a folder that has it is finished
"""

import csv
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from omegaconf import DictConfig
from PIL import Image
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from dof_lightning import console
from dof_lightning.checkpoints import checkpoint as checkpoints
from dof_lightning.config import checks
from dof_lightning.config import compose as configuration
from dof_lightning.config.command_line import split_tail
from dof_lightning.config.effect import without_effect
from dof_lightning.config.identity import config_hash, first_difference
from dof_lightning.errors import UserError
from dof_lightning.files import text, to_csv, to_markdown, write_atomically
from dof_lightning.plain import parse_json
from dof_lightning.studies.base import Cell, Plan, Report, Study
from dof_lightning.training import preparation
from dof_lightning.training import run as training
from dof_lightning.training.events import read_events, training_seconds
from dof_lightning.training.results_file import read_results, read_results_of_run, write_results
from dof_lightning.training.run_folder import (
    RUNS,
    RunFolder,
    claim,
    external_rank,
    fresh_folder,
    require_claim,
    unfinished,
)
from dof_lightning.training.several import check_played, key_of

_OWN_KEYS = ("study", "seed", "run_dir", "resume")


@dataclass(frozen=True)
class _Composed:
    """A checked run of the study: its plan, the overrides that would start it alone, and their configuration."""

    plan: Plan
    typed: Sequence[str]
    cfg: DictConfig


def run(cfg: DictConfig, typed: Sequence[str]) -> Path:
    """Runs and measures every unfinished cell, and writes table, figure and `results.json`.

    Args:
        cfg: the composed configuration.
        typed: the overrides that it was composed from; every cell is composed from them, too.

    Returns:
        the study's folder.

    Raises:
        UserError: a mistake that the user can fix; no cell has been trained.
        SystemExit: a signal has ended a cell's training; the same command resumes the study.
    """
    checks.check(cfg)
    config = configuration.to_plain(cfg)
    study: Study = configuration.build(config["study"])
    _check_alone(config)
    if "seed" in (split_tail(tail)[0] for tail in typed) and study.seeds != [config["seed"]]:
        raise UserError(f"seed= is not read here, study.seeds={study.seeds} is; type study.seeds=[{config['seed']}]")
    cells, started = _compose_cells(study, typed), time.monotonic()
    config["cells"] = {cell.plan.name: config_hash(configuration.to_plain(cell.cfg)) for cell in cells}
    for cell in cells:
        _rehearse(cell, with_data=False)
    for cell in cells:
        _rehearse(cell, with_data=True)
    screen = console.make_console()
    folder = _find_folder(config)
    if folder.results.exists():
        read_results(folder.results)  # refused if it is damaged
        screen.print(f"{folder.path} is finished", soft_wrap=True)
        columns, *rows = csv.reader((folder.path / "table.csv").read_text(encoding="utf-8").splitlines())
        console.show_table(screen, columns, rows)
        return folder.path
    screen.print(f"{len(cells)} runs, in {folder.path}", highlight=False, soft_wrap=True)
    folder.path.mkdir(parents=True, exist_ok=True)
    write_atomically(folder.config, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    finished = []
    for number, cell in enumerate(cells, start=1):
        path = folder.path / cell.plan.name
        before = " (finished before)" if RunFolder(path).results.exists() else ""
        screen.rule(f"{number} of {len(cells)}: {cell.plan}{before}", align="left")
        finished.append(_run_cell(study, cell, path))
    _publish(study.report(finished), finished, config, folder, screen, time.monotonic() - started)
    return folder.path


def _check_alone(config: Mapping[str, Any] | DictConfig) -> None:
    """Refuses several devices, which Lightning would start as studies of their own, and another run's checkpoint."""
    for key in ("devices", "num_nodes"):
        if config["trainer"][key] not in (1, "1"):
            raise UserError(f"a study uses one device per run, got trainer.{key}={config['trainer'][key]}; use 1")
    if external_rank() is not None:
        raise UserError("a study cannot be run by torchrun or several SLURM tasks; start it as one process")
    if config["resume"] not in ("auto", "never"):
        raise UserError(
            f"resume={config['resume']}: a study resumes by itself, or with its run_dir=; use auto or never"
        )


def _compose_cells(study: Study, typed: Sequence[str]) -> list[_Composed]:
    """Composes the configuration of every run, and checks all before the first starts."""
    kept = []
    for tail in typed:
        key = key_of(tail)
        if key in study.keys:
            raise UserError(f"{key}= is set by the study's axes; change study.axes, or set study=none for one run")
        if key.split(".")[0] not in _OWN_KEYS:
            kept.append(tail)
    cells = []
    for plan in study.plans():
        tails = [*kept, *plan.overrides, f"seed={plan.seed}", "study=none"]
        cfg = configuration.compose(tails)
        checks.check(cfg, everything_read=False)
        _check_alone(cfg)
        try:
            check_played(configuration.to_plain(cfg), "a study")
        except UserError as error:
            raise UserError(f"cell {plan}: {error}, or set study=none for one run") from error
        cells.append(_Composed(plan, tails, cfg))
    _check_effect(cells)
    return cells


def _check_effect(cells: Sequence[_Composed]) -> None:
    """Refuses overrides that no cell reads."""
    unread = [without_effect(cell.cfg) for cell in cells]
    for key, reason in unread[0].items() if unread else ():
        if all(key in keys for keys in unread):
            raise UserError(f"{key} has no effect on any cell: {reason}; leave it out")


def _rehearse(cell: _Composed, with_data: bool) -> None:
    """Builds a cell's model, on its dataset or only a stand-in, to find errors that only the model itself detects."""
    try:
        config = configuration.to_plain(cell.cfg)
        env = preparation.build_world(config)
        if with_data:
            preparation.build_algorithm(config, env)
        else:
            preparation.rehearse(config, env)
    except UserError as error:
        raise UserError(f"cell {cell.plan}: {error}") from error


def _find_folder(config: Mapping[str, Any]) -> RunFolder:
    """The folder that was named, or the newest unfinished one of this configuration, or a fresh one."""
    parent = RUNS / config["choices"]["experiment"] / config["choices"]["study"]
    if config["run_dir"] is not None:
        folder = _named_folder(RunFolder(Path(config["run_dir"])), config)
    else:
        open_ones = [] if config["resume"] == "never" else unfinished(parent, config)
        folder = next((one for one in open_ones if claim(one)), None) or fresh_folder(parent)
    require_claim(folder)
    return folder


def _named_folder(folder: RunFolder, config: Mapping[str, Any]) -> RunFolder:
    stored = folder.read_config()
    if stored is None:
        return folder
    if config["resume"] == "never":
        raise UserError(f"run_dir={folder.path} already contains a study; use resume=auto or choose another run_dir=")
    if config_hash(stored) != config_hash(config):
        keys = [key for key in {**config, **stored} if key not in ("run_dir", "resume", "trust")]
        difference = first_difference(config, stored, keys)
        raise UserError(f"run_dir={folder.path} contains another run: {difference}; choose another run_dir=")
    return folder


def _run_cell(study: Study, cell: _Composed, path: Path) -> Cell:
    """Trains and measures a cell; finished steps are skipped."""
    plan, cfg = cell.plan, cell.cfg
    cfg.run_dir = str(path)
    training.run(cfg, cell.typed, study_dir=path.parent)
    folder, kept = RunFolder(path), path / "measured.json"
    results = read_results_of_run(folder.results)
    if results["steps"] > cfg.trainer.max_steps:
        raise UserError(f"{path} contains a longer run, of {results['steps']:,} steps; choose another run_dir=")
    stored = _kept(kept)
    if stored.get("results") != results or "measured" not in stored:
        checkpoint = checkpoints.read(folder.last)
        stored = {"results": results, "measured": study.measure(checkpoint, checkpoint.config)}
        write_atomically(kept, json.dumps(stored) + "\n")
    return Cell(
        labels=plan.labels,
        seed=plan.seed,
        results=results | {"wall_seconds": _seconds(path, results)},
        measured=stored["measured"],
        stopped_early=results["steps"] < cfg.trainer.max_steps,
    )


def _seconds(path: Path, results: dict[str, Any]) -> float:
    """Seconds that a cell trained; those of its last process if its curves are damaged."""
    try:
        return training_seconds(read_events(path), results)
    except UserError:
        return float(results["wall_seconds"])


def _kept(path: Path) -> dict[str, Any]:
    """A cell's stored measurements; empty if there are none or they are damaged, so that it is measured anew."""
    try:
        stored = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _publish(
    report: Report, cells: Sequence[Cell], config: Mapping[str, Any], folder: RunFolder, screen: Console, seconds: float
) -> None:
    early = [f"{', '.join(cell.labels.values())}, seed {cell.seed}" for cell in cells if cell.stopped_early]
    note = (
        f"stopped before trainer.max_steps (trainer.max_time, rollout.until_plateau): {'; '.join(early)}"
        if early
        else ""
    )
    markdown = to_markdown(report.columns, report.rows) + (f"\n{note}\n" if early else "")
    write_atomically(folder.path / "table.md", markdown)
    write_atomically(folder.path / "table.csv", to_csv(report.columns, report.rows))
    with SummaryWriter(str(folder.path)) as writer:
        writer.add_text("study/table", markdown)
        if report.figure is not None:
            picture = folder.path / "figure.png"
            report.figure.savefig(picture, dpi=120)
            writer.add_image("study/figure", np.asarray(Image.open(picture).convert("RGB")), dataformats="HWC")
    results = {
        "experiment": config["choices"]["experiment"],
        "study": config["choices"]["study"],
        "wall_seconds": round(seconds, 2),  # time of the last process only
        "stopped_early": early,
        **report.results,
        "cells": [{"labels": cell.labels, "seed": cell.seed, "last": cell.results["last"]} for cell in cells],
    }
    write_results(folder.results, results)
    console.show_table(screen, report.columns, [[text(value) for value in row] for row in report.rows])
    if early:
        screen.print(note, soft_wrap=True)
    for name in ("table.md", "table.csv", "figure.png", "results.json"):
        if (folder.path / name).exists():
            screen.print(f"{folder.path / name}", highlight=False, soft_wrap=True)
