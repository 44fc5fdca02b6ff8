"""The Python API of the commands: the same names, `key=value` changes and checks, without a command line.

    from dof_lightning import evaluate, train

    run = train("experiment=mpe_spread_medium", "trainer.max_steps=500")
    print(evaluate(run / "checkpoints" / "best.ckpt", "sampler.steps=2").normalized_score)

`examples/train_from_python.py` shows how to train without any configuration.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dof_lightning.checkpoints import checkpoint as checkpoints
from dof_lightning.checkpoints.overrides import override
from dof_lightning.checkpoints.trainer_made import load_algorithm as load_algorithm
from dof_lightning.config import compose as configuration
from dof_lightning.config.arguments import check_arguments
from dof_lightning.envs.base import VectorEnv
from dof_lightning.errors import UserError
from dof_lightning.evaluation import grid, score
from dof_lightning.evaluation.score import Score
from dof_lightning.studies import runner
from dof_lightning.training import preparation
from dof_lightning.training import run as training
from dof_lightning.training.run_folder import is_child
from dof_lightning.training.trainer import try_out

_trainings: list[tuple[str, ...]] = []  # what `train` has been called with in this process


def make_env(name: str, **changes: Any) -> VectorEnv:
    """Builds an environment by its name in `conf/env/`.

    Args:
        name: `mpe_spread`, `smax_3m`, ...
        changes: changed values of its yaml, as in `make_env("mpe_tag", prey="still")`.

    Raises:
        UserError: there is no such environment or key, or a value is refused.
    """
    return checkpoints.build_env(_compose("env", name, changes))


def make_dataset(name: str, **changes: Any) -> Path | str:
    """Provides a dataset by its name in `conf/data/`; one of ours is collected on first use.

    Args:
        name: `mpe_spread_expert`, `smax_3m_good`, ...
        changes: changed values of its yaml, as in `make_dataset("mpe_spread_random", episodes=200, root="/scratch")`.

    Returns:
        The folder, or the address of a dataset that is stored elsewhere.

    Raises:
        UserError: there is no such dataset or key, a value is refused, or the dataset cannot be built.
    """
    return preparation.locate_dataset(_compose("data", name, changes))


def train(*overrides: str) -> Path:
    """Does what `python train.py` does: trains, evaluates and reports, or runs a study.

    With `trainer.devices` above 1, each further rank runs the calling script from its beginning and ends with this
    call. So only the first training of a script can use several devices.

    Args:
        overrides: overrides as on the command line, e.g. `"experiment=mpe_spread_expert"`, `"seed=1"`.

    Returns:
        The run's folder, with `results.json` and `checkpoints/`.

    Raises:
        UserError: an error that the user can fix; nothing has been trained then.
        SystemExit: a signal has ended the training, or another rank has died; or this is a further rank.
    """
    if strange := [text for text in overrides if not text.startswith("~") and "=" not in text]:
        raise UserError(f"cannot read {strange[0]!r}; write key=value")
    config = configuration.compose(overrides)
    if _trainings and not is_child() and try_out(configuration.to_plain(config)) > 1:
        raise UserError(
            f"trainer.devices={config.trainer.devices}: only the first training of a script can use several devices, "
            "because each further rank runs the script, too; start this one by `python train.py`"
        )
    _trainings.append(tuple(overrides))
    run = training.run if config.choices["study"] == "none" else runner.run
    folder = run(config, overrides)
    if is_child():
        raise SystemExit(0)
    return folder


def evaluate(checkpoint: Path | str, *overrides: str) -> Score:
    """Does what `dof eval` does: rolls a checkpoint out on the report seeds of its run, and certifies it.

    Args:
        checkpoint: a `.ckpt` file, or a run's folder for its last one.
        overrides: overrides as on the command line, e.g. `"sampler.steps=2"`, `"rollout.report_episodes=20"`.

    Raises:
        UserError: the checkpoint cannot be read, or an override does not fit.
    """
    stored = checkpoints.read(Path(checkpoint))
    if keys := grid.listed(stored.config, overrides):
        raise UserError(f"{keys[0]} is given a list, which `dof eval` makes a table of; evaluate() takes one value")
    return score.evaluate(stored, override(stored.config, overrides))


def _compose(group: str, option: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Composes the configuration with one option and changed values, written in JSON as they would be typed."""
    typed = [line for key, value in changes.items() for line in _typed(f"{group}.{key}", value)]
    config = configuration.to_plain(configuration.compose([f"{group}={option}", *typed]))
    check_arguments({group: config[group]})
    return config


def _typed(key: str, value: Any) -> list[str]:
    """The overrides that set a value; entries of a mapping, such as a factory's arguments, may be new."""
    if isinstance(value, Mapping):
        return [f"++{line.lstrip('+')}" for name, entry in value.items() for line in _typed(f"{key}.{name}", entry)]
    return [f"{key}={json.dumps(value, default=str, ensure_ascii=False)}"]
