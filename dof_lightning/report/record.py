"""The row and the curve of a finished run in a results store, read from its folder."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dof_lightning.checkpoints import checkpoint as checkpoints
from dof_lightning.config.command_line import for_shell
from dof_lightning.config.compose import is_own_data, task_name
from dof_lightning.config.identity import config_hash, settings_hash
from dof_lightning.errors import UserError
from dof_lightning.report.naming import changed
from dof_lightning.report.reproduce import is_preset, overrides_of
from dof_lightning.report.store import Point, Record
from dof_lightning.training.events import HEADLINE, Events, read_events, training_seconds
from dof_lightning.training.results_file import read_results_of_run
from dof_lightning.training.run_folder import RunFolder

_SCORES = ("normalized_score", "own_normalized_score", "win_rate")
UNRECORDED = "a device that the run did not tell"


def record_of(
    path: Path,
    suite: str = "",
    variant: str | None = None,
    decision_ms: float | None = None,
    typed: Sequence[str] | None = None,
) -> tuple[Record, list[Point]]:
    """Reads a run folder.

    Args:
        path: the run's folder.
        suite: the benchmark it belongs to.
        variant: the name of its variant there; None means empty for the preset, else a mark that it is changed.
        decision_ms: milliseconds of one decision, if they were measured.
        typed: overrides that reproduce the run; None means those that its configuration has besides its presets.

    Raises:
        UserError: the run is not finished or was not rolled out, or the folder is not a run's or is damaged.
    """
    folder = RunFolder(path)
    config = folder.read_config()
    if config is None or not folder.results.exists():
        raise UserError(
            f"{path} contains no finished run: there is no {'config.yaml' if config is None else 'results.json'}"
        )
    results = read_results_of_run(folder.results)
    if None in (results[which]["return_mean"] for which in ("last", "best", "behavior")):
        raise UserError(f"{path} was trained with rollout=none: it has no scores to report")
    if variant is None:
        variant = "" if is_preset(config) else changed(config["choices"]["algorithm"])
    checkpoint, events = checkpoints.read(folder.last), read_events(path)
    _require_one_run(folder, results, {"steps": checkpoint.step, "seed": config["seed"]})
    choices, curve = config["choices"], list(_curve(events, config_hash(config), results["dataset_fingerprint"]))
    record = Record(
        suite=suite,
        experiment=task_name(config),
        dataset=task_name(config) if is_own_data(config) else choices["data"],
        environment=choices["env"],
        algorithm=choices["algorithm"],
        variant=variant,
        seed=results["seed"],
        config_hash=config_hash(config),
        settings_hash=settings_hash(config),
        dataset_fingerprint=results["dataset_fingerprint"],
        environment_fingerprint=checkpoint.spec.environment.fingerprint,
        git_revision=checkpoint.git or "",
        steps=results["steps"],
        budget_steps=config["trainer"]["max_steps"],
        windows=results["windows"],
        episodes=results["last"]["episodes"],
        **_scores("last", results["last"]),
        **_scores("best", results["best"]),
        **_behavior(results["behavior"]),
        execution=results["last"].get("execution", "decentralized"),
        shared_seeds=results["last"].get("shared_seeds"),
        certified=results["last"]["certificate"]["passed"],
        wall_seconds=training_seconds(events, results),
        peak_memory_mb=results["peak_memory_mb"],
        decision_ms=decision_ms,
        device=results.get("device", UNRECORDED),
        command=for_shell("python", "train.py", *(overrides_of(config) if typed is None else typed)),
    )
    return record, curve


def _scores(which: str, score: Mapping[str, Any]) -> dict[str, Any]:
    measured = {f"{which}_{name}": score.get(name) for name in _SCORES}
    return {f"{which}_return": score["return_mean"], f"{which}_return_std": score["return_std"], **measured}


def _behavior(behavior: Mapping[str, Any]) -> dict[str, Any]:
    return {"behavior_return": behavior["return_mean"]} | {f"behavior_{name}": behavior.get(name) for name in _SCORES}


def _require_one_run(folder: RunFolder, results: Mapping[str, Any], expected: Mapping[str, int]) -> None:
    """Refuses numbers that the other files of the folder contradict; `expected` is by key of `results.json`."""
    for key, value in expected.items():
        if results[key] != value:
            raise UserError(
                f"{folder.results} contains {key} {results[key]}, but the rest of the run's folder {value}: restore it"
            )


def _curve(files: Sequence[Events], hashed: str, dataset: str) -> Iterator[Point]:
    """Yields periodic rollouts in the order of their steps; of a repeated one, the last process's counts."""
    points: dict[int, Point] = {}
    before = 0.0
    for process in (one for one in files if one.trained):
        by_step = {tag: {point.step: point.value for point in curve} for tag, curve in process.scalars.items()}
        for point in process.scalars.get(HEADLINE, []):
            scores = {name: by_step.get(f"rollout/{name}", {}).get(point.step) for name in _SCORES}
            points[point.step] = Point(
                config_hash=hashed,
                dataset_fingerprint=dataset,
                step=point.step,
                seconds=round(before + point.wall_time - process.began, 2),
                return_mean=point.value,
                **scores,
            )
        before += process.seconds
    yield from (points[step] for step in sorted(points))
