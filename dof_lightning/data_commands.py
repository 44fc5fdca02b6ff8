"""`dof data`: what is done to datasets."""

import importlib
from pathlib import Path
from typing import Any

import yaml

from dof_lightning import configuration
from dof_lightning.errors import UserError
from dof_lightning.plain import split_tail
from dof_lightning.tails import take
from dof_lightning.targets import check_arguments

HELP = "build | list | show <path> | verify <path> | train-behavior task=spread output=<file>"


def _build(tails: list[str]) -> None:
    from dof_lightning import engine

    cfg = configuration.compose(tails)
    configuration.check(cfg)
    print(engine.locate_dataset(configuration.to_plain(cfg)))


def _list(tails: list[str]) -> None:
    from data_modules.inspect import list_datasets
    from dof_lightning import console

    console.make_console().print(list_datasets(Path(_data_root(tails))))


def _show(tails: list[str]) -> None:
    from data_modules.inspect import describe
    from dof_lightning import console

    for path in _dataset_paths(tails):
        console.make_console().print(describe(path))


def _verify(tails: list[str]) -> None:
    from data_modules.verify import verify_dataset

    for path in _dataset_paths(tails):
        found = verify_dataset(path)
        print(f"{path}: {found.n_shards} shards, {found.n_bytes:,} bytes, all as they should be")
        for warning in found.warnings:
            print(f"  but look: {warning}")


def _train_behavior(tails: list[str]) -> None:
    values = {key: yaml.safe_load(value) for key, value in map(split_tail, tails)}
    of_robots = str(values.get("task")).startswith("mamujoco_")
    trainer = f"data_modules.behavior.{'train_locomotion' if of_robots else 'train'}"
    check_arguments({"_target_": f"{trainer}.main", **values})
    importlib.import_module(trainer).main(**values)


ACTIONS: dict[str, Any] = {
    "build": (_build, "build a dataset: dof data build experiment=mpe_spread_medium [data.episodes=1000]"),
    "list": (_list, "the datasets below data.root: dof data list [data.root=data]"),
    "show": (_show, "what a dataset holds: dof data show <path>, or experiment=<name>"),
    "verify": (_verify, "read a dataset in full and check it: dof data verify <path>, or experiment=<name>"),
    "train-behavior": (_train_behavior, "train behaviour policies: dof data train-behavior task=spread output=<file>"),
}


def _data_root(tails: list[str]) -> str:
    root, others = take(tails, "data.root")
    if others:
        raise UserError(f"dof data list knows data.root= only, got {others[0]!r}")
    return root if root is not None else str(configuration.compose([]).data.root)


def _dataset_paths(tails: list[str]) -> list[Path | str]:
    """Paths as typed, or the dataset that an experiment's configuration names."""
    if not tails:
        raise UserError("which dataset? give its folder, or experiment=<name>")
    if "=" not in tails[0]:
        return list(tails)
    cfg = configuration.compose(tails)
    configuration.check(cfg)
    if cfg.data.path is not None:
        return [str(cfg.data.path)]
    source = configuration.build(cfg.data.source)
    if not source.exists():
        raise UserError(f"{source.path} is not there; build it with `dof data build {' '.join(tails)}`")
    return [source.path]
