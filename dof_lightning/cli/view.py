"""`dof data view`: resolves the dataset, the episode, the environment that draws it, and the page's file."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dof_lightning.cli.data_arguments import check_output, dataset_paths, is_of_env, split_env
from dof_lightning.config.catalog import options
from dof_lightning.config.command_line import take, take_integer
from dof_lightning.errors import UserError

if TYPE_CHECKING:
    from data_modules.storage.manifest import DatasetManifest
    from dof_lightning.envs.base import VectorEnv

_SHOWN = "dof data view <path> episode=<number from 0> [output=<file.html>] [env=<name>]"


def view(tails: list[str]) -> None:
    """Writes the page of an episode and prints its path.

    Args:
        tails: the dataset's folder, `data.path=<folder>` or `experiment=<name>`, and `episode=`, `output=`, `env=`.

    Raises:
        UserError: the dataset or the episode does not exist, or the page cannot be written there.
    """
    from data_modules.storage.manifest import read_manifest
    from data_modules.tools.view import view as write_page

    others = [f"data.path={tail}" if number == 0 and "=" not in tail else tail for number, tail in enumerate(tails)]
    index, others = take_integer(others, "episode", -1, least=0)
    output, others = take(others, "output")
    if index < 0:
        raise UserError(f"episode= is missing: {_SHOWN}")
    drawn_by = [tail for tail in others if is_of_env(tail)]
    manifest = read_manifest(_dataset([tail for tail in others if tail not in drawn_by]))
    page = Path(output if output is not None else f"{manifest.spec.name}_episode_{index}.html")
    check_output(page, ".html")
    remark = write_page(manifest, index, _environment(manifest, drawn_by), page)
    if remark is not None:
        print(remark, file=sys.stderr)
    print(page)


def _dataset(tails: list[str]) -> Path | str:
    """The folder that is named, or the dataset of an experiment, which other keys may change."""
    path, others = take(tails, "data.path")
    if path is None or any(tail.startswith("experiment=") for tail in others):
        return dataset_paths(tails)[0]
    if others:
        raise UserError(f"{others[0]} has no effect beside a dataset's folder: {_SHOWN}")
    return path


def _environment(manifest: "DatasetManifest", tails: list[str]) -> "VectorEnv | None":
    """The environment that is typed, else the option with the name of the data's world; None if there is none."""
    from dof_lightning.config import compose as configuration

    name = manifest.spec.environment.name
    if not any(tail.startswith("env=") for tail in tails) and name in options("env"):
        tails = [*tails, f"env={name}"]
    world: Any = split_env(tails)[0]
    return None if world is None else configuration.build(world.env)
