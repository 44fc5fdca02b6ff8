"""The commands on datasets: `dof data ...`."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from dof_lightning.cli.data_arguments import (
    check_output,
    dataset_paths,
    is_of_env,
    read_values,
    refuse_unknown,
    show_next_command,
    split_env,
    take_root,
)
from dof_lightning.config.catalog import known_datasets
from dof_lightning.config.command_line import split_tail
from dof_lightning.errors import UserError

HELP = "make, list, show, check, merge and cut datasets; `dof data <command> --help` shows the arguments"


def _build(tails: list[str]) -> None:
    from dof_lightning.config import checks
    from dof_lightning.config import compose as configuration
    from dof_lightning.training import preparation

    cfg = configuration.compose(tails)
    checks.check(cfg)
    print(preparation.locate_dataset(configuration.to_plain(cfg)))


def _list(tails: list[str]) -> None:
    from data_modules.tools.inspect import list_datasets
    from dof_lightning import console

    root, others = take_root(tails)
    refuse_unknown(others, "list", ["data.root"])
    console.make_console().print(list_datasets(root, known_datasets()), soft_wrap=True)


def _show(tails: list[str]) -> None:
    from data_modules.tools.inspect import describe
    from dof_lightning import console

    for path in dataset_paths(tails):
        console.make_console().print(describe(path))


def _verify(tails: list[str]) -> None:
    from data_modules.tools.verify import verify_dataset

    names_folders = bool(tails) and "=" not in tails[0]
    typed = [tail for tail in tails if names_folders and "=" in tail and is_of_env(tail)]
    world = split_env(typed)[0] if typed else None
    for path in dataset_paths([tail for tail in tails if tail not in typed]):
        found = verify_dataset(path)
        print(f"{path}: {found.n_shards} shards, {found.n_bytes:,} bytes, no errors found")
        for warning in found.warnings:
            print(f"  warning: {warning}")
        if world is not None:
            from data_modules.tools import replay
            from dof_lightning.config import compose as configuration

            print(f"  {replay.tell(path, configuration.build(world.env))}")


def _stats(tails: list[str]) -> None:
    from data_modules.storage.manifest import read_manifest
    from data_modules.tools.summary import plot, summarize

    outputs = [tail.removeprefix("output=") for tail in tails if tail.startswith("output=")]
    output = outputs[-1] if outputs else None
    paths = dataset_paths([tail for tail in tails if tail != "--plot" and not tail.startswith("output=")])
    if output is not None and len(paths) > 1:
        raise UserError(f"output={output} is one file for {len(paths)} datasets; name one dataset")
    for path in paths:
        manifest = read_manifest(path)
        print(json.dumps(summarize(manifest)))
        if "--plot" in tails or output is not None:
            file = Path(output if output is not None else f"{manifest.spec.name}.png")
            check_output(file, ".png")
            plot(manifest, file)
            print(f"written: {file}", file=sys.stderr)


def _view(tails: list[str]) -> None:
    from dof_lightning.cli.view import view

    view(tails)


def _merge(tails: list[str]) -> None:
    from data_modules.tools.derive import merge

    values, root = read_values(tails, "merge", required=("datasets", "name"), optional=("seed",))
    if not isinstance(values["datasets"], list):
        raise UserError("datasets= must be a list of folders: datasets=[first,second]")
    print(merge([str(path) for path in values["datasets"]], root, str(values["name"]), values.get("seed", 0)))


def _subsample(tails: list[str]) -> None:
    from data_modules.tools.derive import subsample

    values, root = read_values(
        tails, "subsample", required=("dataset", "name"), optional=("quantiles", "episodes", "seed")
    )
    path, name = str(values.pop("dataset")), str(values.pop("name"))
    print(subsample(path, root, name, **values))


def _import(tails: list[str]) -> None:
    from data_modules.convert.importing import FORMATS, OPTIONS, import_dataset
    from dof_lightning.config import compose as configuration

    world, others = split_env(tails)
    options = sorted({key for keys in OPTIONS.values() for key in keys})
    keys = ["format", "source", "name", "discount", "seed", "data.root"]
    refuse_unknown(others, "import", [*keys, "env", *options])
    values, root = read_values(
        others, "import", required=("format", "source", "name"), optional=("discount", "seed", *options)
    )
    if values["format"] not in FORMATS:
        raise UserError(f"format={values['format']} is unknown; choose one of {', '.join(FORMATS)}")
    given = {key: values[key] for key in options if key in values}
    others_given = {key: values[key] for key in ("discount", "seed") if key in values}
    spec = configuration.build(world.env).spec if world is not None else None
    source, name = Path(str(values["source"])), str(values["name"])
    path = import_dataset(values["format"], source, name, root, spec, given, **others_given)
    print(path)
    show_next_command(path, tails)


def _collect(tails: list[str]) -> None:
    from data_modules.behavior.function import FunctionBehavior
    from data_modules.collect import CollectedDataset
    from dof_lightning.config import compose as configuration

    world, others = split_env(tails)
    values, root = read_values(
        others, "collect", required=("policy", "name", "episodes"), optional=("version", "seed", "discount")
    )
    if world is None:
        raise UserError("env= is missing: name the environment in which the policy acts")
    if not world.trust:
        raise UserError(f"policy={values['policy']} runs your own code; add trust=true")
    sys.path.insert(0, ".")
    made = CollectedDataset(
        name=str(values["name"]),
        environment=configuration.build(world.env),
        behavior=FunctionBehavior(str(values["policy"]), values.get("version", 1)),
        episodes=values["episodes"],
        seed=values.get("seed", 0),
        discount=values.get("discount", 0.99),
        root=str(root),
    )
    path = made.ensure()
    print(path)
    show_next_command(path, tails)


def _export(tails: list[str]) -> None:
    from data_modules.convert.exporting import export_dataset

    values, _ = read_values(tails, "export", required=("dataset", "format", "output"), optional=("state",))
    place = Path(str(values["output"]))
    print(export_dataset(str(values["dataset"]), str(values["format"]), place, values.get("state")))


def _train_behavior(tails: list[str]) -> None:
    from dof_lightning.config.arguments import check_arguments

    values = {key: yaml.safe_load(value) for key, value in map(split_tail, tails)}
    prefix = str(values.get("task", "")).partition("_")[0]
    trainer = importlib.import_module(f"data_modules.behavior.training.{_TRAINERS.get(prefix, 'train_particle')}")
    check_arguments({"_target_": f"{trainer.__name__}.{trainer.told_by.__name__}", **values})
    trainer.main(trainer.told_by(**values))


_TRAINERS = {"smax": "train_battles", "smacv2": "train_battles", "mamujoco": "train_locomotion"}


ACTIONS: dict[str, Any] = {
    "build": (_build, "build a dataset: dof data build experiment=mpe_spread_medium [data.episodes=1000]"),
    "list": (_list, "list known datasets, on disk or not, and others below data.root: dof data list [data.root=data]"),
    "show": (_show, "show what a dataset contains: dof data show <path>, or experiment=<name>"),
    "verify": (
        _verify,
        "read a dataset in full and check it, with env= also by playing its actions again: "
        "dof data verify <path> [env=<name>], or experiment=<name>",
    ),
    "stats": (
        _stats,
        "print JSON, draw a picture: dof data stats <path> [--plot] [output=<file.png>], or experiment=<name>",
    ),
    "view": (
        _view,
        "write one episode as a page that opens from disk, with its frames, rewards and actions: "
        "dof data view <path> episode=<number from 0> [output=<file.html>] [env=<name>], or experiment=<name>",
    ),
    "import": (
        _import,
        "import episodes: dof data import format=omar|vault|madiff|minari|npz source=<path> name=<name> "
        "[env=mpe_tag] [action_range=[-2,2]] [data.root=data] (docs/guide/import.md)",
    ),
    "collect": (
        _collect,
        "roll out your own policy: dof data collect env=<name> policy=<module>:<function> name=<name> episodes=<n> "
        "trust=true [version=1] (docs/guide/import.md)",
    ),
    "export": (
        _export,
        "write a dataset in another format: dof data export dataset=<path> format=omar|vault output=<new folder> "
        "[state=observations] (docs/guide/import.md)",
    ),
    "merge": (
        _merge,
        "merge several datasets of one environment: dof data merge datasets=[<path>,<path>] name=<name> [seed=0]",
    ),
    "subsample": (
        _subsample,
        "pick episodes by return: dof data subsample dataset=<path> name=<name> [quantiles=[0.5,1.0]] [episodes=1000]",
    ),
    "train-behavior": (
        _train_behavior,
        "train behaviour policies: dof data train-behavior task=spread|tag|world output=<file> [experts=[1,2]] "
        "[team=[[0.1,7.5],[0.15,5],[0.2,3]]] [sight=1.0]",
    ),
}
