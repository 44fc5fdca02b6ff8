"""From a finished run's folder to its row and its curve in a results store."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dof_lightning.checkpoints import checkpoint as checkpoints
from dof_lightning.config.compose import is_own_data, task_name
from dof_lightning.config.identity import config_hash, settings_hash
from dof_lightning.errors import UserError
from dof_lightning.report.reproduce import is_preset, overrides_of
from dof_lightning.report.store import Point, Record
from dof_lightning.training.run_folder import RunFolder

_SCORES = ("normalized_score", "own_normalized_score", "win_rate")
_HEADLINE = "rollout/return_mean"


def record_of(
    path: Path,
    suite: str = "",
    variant: str | None = None,
    decision_ms: float | None = None,
    typed: Sequence[str] | None = None,
) -> tuple[Record, list[Point]]:
    """Reads a run folder.

    Args:
        path: of the run.
        suite: of which benchmark.
        variant: what its algorithm is called there; None: nothing where it is the preset, else that it is changed.
        decision_ms: milliseconds of one decision, where they were measured.
        typed: overrides that reproduce the run; None: what its configuration has besides its presets.

    Raises:
        UserError: it is not finished, was not rolled out, or is no run's folder.
    """
    folder = RunFolder(path)
    config = folder.read_config()
    if config is None or not folder.results.exists():
        raise UserError(
            f"{path} holds no finished run: there is no {'config.yaml' if config is None else 'results.json'}"
        )
    results = folder.read_results()
    if results["last"]["return_mean"] is None:
        raise UserError(f"{path} was trained with rollout=none: it has no scores to report")
    if variant is None:
        variant = "" if is_preset(config) else f"{config['choices']['algorithm']}, changed"
    checkpoint = checkpoints.read(folder.last)
    choices, curve = config["choices"], list(_curve(path, config_hash(config), results["dataset_fingerprint"]))
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
        wall_seconds=round(results["wall_seconds"] + _earlier_seconds(path, results.get("started_at", 0.0)), 2),
        peak_memory_mb=results["peak_memory_mb"],
        decision_ms=decision_ms,
        device=_device(),
        command=" ".join(["python train.py", *(overrides_of(config) if typed is None else typed)]),
    )
    return record, curve


def _scores(which: str, score: Mapping[str, Any]) -> dict[str, Any]:
    measured = {f"{which}_{name}": score.get(name) for name in _SCORES}
    return {f"{which}_return": score["return_mean"], f"{which}_return_std": score["return_std"], **measured}


def _behavior(behavior: Mapping[str, Any]) -> dict[str, Any]:
    return {"behavior_return": behavior["return_mean"]} | {f"behavior_{name}": behavior.get(name) for name in _SCORES}


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{platform.machine()} CPU, {threads} thread{'s' if threads > 1 else ''}"


def _curve(path: Path, hashed: str, dataset: str) -> Iterator[Point]:
    """Periodic rollouts in the order of their steps; what a resumed run repeated counts as its last process saw it."""
    points: dict[int, Point] = {}
    before = 0.0
    for began, scalars in filter(_trained, _events(path)):
        by_step = {tag: {event.step: event.value for event in events} for tag, events in scalars.items()}
        for event in scalars.get(_HEADLINE, []):
            scores = {name: by_step.get(f"rollout/{name}", {}).get(event.step) for name in _SCORES}
            points[event.step] = Point(
                config_hash=hashed,
                dataset_fingerprint=dataset,
                step=event.step,
                seconds=round(before + event.wall_time - began, 2),
                return_mean=event.value,
                **scores,
            )
        before += _last_time(scalars) - began
    yield from (points[step] for step in sorted(points))


def _earlier_seconds(path: Path, started_at: float) -> float:
    """How long the processes before the last one trained; that one says itself how long it took, trained or not.

    A process may write several files of events. The last one began at `started_at`, in seconds since 1970; 0 where an
    older run does not say it: none counts.
    """
    earlier = [one for one in filter(_trained, _events(path)) if one[0] < started_at]
    return sum(_last_time(scalars) - began for began, scalars in earlier)


def _last_time(scalars: Mapping[str, Sequence[Any]]) -> float:
    return float(max(event.wall_time for events in scalars.values() for event in events))


def _events(path: Path) -> list[tuple[float, dict[str, list[Any]]]]:
    """When every file of events began, in that order, and its scalars by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told = []
    for file in sorted(path.glob("events.out.tfevents.*"), key=lambda file: file.name.split(".")[3]):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
        told.append((events.FirstEventTimestamp() if scalars else 0.0, scalars))
    return told


def _trained(process: tuple[float, Mapping[str, Any]]) -> bool:
    return "loss" in process[1] or _HEADLINE in process[1]
