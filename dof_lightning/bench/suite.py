"""Suite files, which list the runs of a benchmark."""

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dof_lightning.config import catalog
from dof_lightning.config import compose as configuration
from dof_lightning.errors import UserError
from dof_lightning.training.several import first_repeated, folder_name, key_of

_KEYS = {"title": str, "overrides": list, "max_minutes": (int, float, type(None)), "grids": list}
_GRID_KEYS = {"experiments": list, "algorithms": dict, "seeds": list, "overrides": list}
_TAKEN = ("experiment", "seed", "run_dir", "resume", "study")  # keys that a suite sets itself


@dataclass(frozen=True)
class Job:
    """One run of a suite.

    Attributes:
        suite: the suite's name.
        experiment: option of group experiment.
        label: the suite's name for the algorithm with its overrides.
        algorithm: option of group algorithm.
        seed: the run's seed.
        overrides: all other overrides.
    """

    suite: str
    experiment: str
    label: str
    algorithm: str
    seed: int
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its run folder; unique in the suite."""
        return folder_name((self.experiment, self.label), self.seed)

    @property
    def variant(self) -> str:
        """The label, if it is more than the algorithm's name; else empty."""
        return "" if self.label == self.algorithm else self.label

    @property
    def typed(self) -> list[str]:
        """The overrides of `python train.py`."""
        chosen = (f"experiment={self.experiment}", f"algorithm={self.algorithm}", "study=none")
        return [*chosen, *self.overrides, f"seed={self.seed}"]

    @property
    def reproduces(self) -> list[str]:
        """The overrides that reproduce the run: `typed`, without the study if its experiment has none."""
        studied = configuration.compose([f"experiment={self.experiment}"])["choices"]["study"] not in (None, "none")
        return [text for text in self.typed if text != "study=none" or studied]


@dataclass(frozen=True)
class Suite:
    """A benchmark.

    Attributes:
        queue: its runs in the order of execution: every method's first seed comes before any method's
            second seed.
    """

    name: str
    title: str
    queue: tuple[Job, ...]

    def job(self, name: str) -> Job:
        """Finds a run by its name.

        Raises:
            UserError: there is no such run.
        """
        for job in self.queue:
            if job.name == name:
                return job
        raise UserError(f"suite={self.name} has no run {name!r}; has its file been changed meanwhile?")


def read_suite(which: str) -> Suite:
    """Reads a suite.

    Args:
        which: an option of `conf/suite`, or the path of a yaml file.

    Raises:
        UserError: the suite does not exist or is invalid.
    """
    path = Path(which)
    if path.suffix != ".yaml":
        path = catalog.CONF_DIR / "suite" / f"{which}.yaml"
    known = sorted(file.stem for file in (catalog.CONF_DIR / "suite").glob("*.yaml"))
    if not path.is_file():
        raise UserError(f"suite={which} does not exist; choose one of {', '.join(known)}, or the path of a .yaml file")
    if path.stem in known and path.resolve() != (catalog.CONF_DIR / "suite" / path.name).resolve():
        raise UserError(f"suite={which}: {path.stem} is one of conf/suite, whose store it would share; rename the file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    _check(str(path), content, _KEYS, required=("grids",))
    _check_shared(str(path), content)
    _check_minutes(str(path), content.get("max_minutes"))
    for number, grid in enumerate(content["grids"]):
        where = f"{path}: grids[{number}]"
        _check(where, grid, _GRID_KEYS, required=("experiments", "algorithms", "seeds"))
        _check_shared(where, grid)
        _check_values(where, grid)
        for label, overrides in grid["algorithms"].items():
            _check_algorithm(f"{where}: algorithms.{label}", str(label), overrides)
    jobs = list(_jobs(path.stem, content))
    twice = first_repeated(job.name for job in jobs)
    if not jobs or twice is not None:
        raise UserError(f"{path}: {'there is no run' if twice is None else f'{twice} is listed twice; list it once'}")
    return Suite(path.stem, content.get("title") or path.stem, tuple(sorted(jobs, key=lambda job: job.seed)))


def _check(where: str, node: Any, known: Mapping[str, Any], required: Sequence[str]) -> None:
    if not isinstance(node, dict):
        raise UserError(f"{where} must contain keys: {', '.join(known)}")
    for key, value in node.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"known are {', '.join(known)}"
            raise UserError(f"{where}: unknown key `{key}`; {hint}")
        if not isinstance(value, known[key]) or isinstance(value, bool):
            raise UserError(f"{where}: {key} has the wrong form: {value!r}")
    for key in required:
        if not node.get(key):
            raise UserError(f"{where}: {key} is missing or empty")


def _check_values(where: str, grid: Mapping[str, Any]) -> None:
    if not all(type(seed) is int and seed >= 0 for seed in grid["seeds"]):
        raise UserError(f"{where}: seeds={grid['seeds']} must be integers, at least 0")
    for name in grid["experiments"]:
        if name not in catalog.options("experiment"):
            choices = ", ".join(catalog.options("experiment"))
            raise UserError(f"{where}: experiment {name} does not exist; choose one of {choices}")


def _check_algorithm(where: str, label: str, overrides: Any) -> None:
    if not re.fullmatch(r"[\w.-]+", label):
        raise UserError(f"{where} must be made of letters, digits, _, - and . only")
    if not isinstance(overrides, list):
        raise UserError(f"{where} must be a list of overrides, [] for none")
    _check_free(where, overrides, _TAKEN)


def _check_shared(where: str, node: Mapping[str, Any]) -> None:
    """Refuses overrides that several algorithms share if one of these overrides chooses the algorithm."""
    _check_free(f"{where}: overrides", node.get("overrides") or [], (*_TAKEN, "algorithm"))


def _check_free(where: str, overrides: Sequence[Any], taken: Sequence[str]) -> None:
    keys = [key_of(str(text)) for text in overrides]
    if (key := next((key for key in keys if key in taken), None)) is not None:
        raise UserError(f"{where}: {key}= is set by the suite; remove the override")


def _check_minutes(where: str, minutes: float | None) -> None:
    if minutes is not None and not 1 / 60 <= minutes < math.inf:
        raise UserError(f"{where}: max_minutes={minutes} must be a second (0.017) or more; null for no limit")


def _jobs(name: str, content: Mapping[str, Any]) -> Iterator[Job]:
    common = [*_strings(content.get("overrides"))]
    minutes = content.get("max_minutes")
    if minutes is not None:
        hours, seconds = divmod(round(60 * minutes), 3600)
        common.append(f"trainer.max_time={hours // 24:02}:{hours % 24:02}:{seconds // 60:02}:{seconds % 60:02}")
    for grid in content["grids"]:
        shared = [*common, *_strings(grid.get("overrides"))]
        for experiment in grid["experiments"]:
            for label, own in grid["algorithms"].items():
                algorithm, overrides = _algorithm(str(label), [*shared, *_strings(own)])
                for seed in grid["seeds"]:
                    yield Job(name, experiment, str(label), algorithm, seed, tuple(overrides))


def _algorithm(label: str, overrides: list[str]) -> tuple[str, list[str]]:
    """Returns the algorithm that a label stands for, and the other overrides."""
    named = [text.partition("=")[2] for text in overrides if text.startswith("algorithm=")]
    rest = [text for text in overrides if not text.startswith("algorithm=")]
    return (named[-1] if named else label), rest


def _strings(values: Any) -> list[str]:
    return [str(value) for value in values or []]
