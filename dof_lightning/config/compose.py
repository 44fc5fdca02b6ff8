"""Composition of overrides into a resolved configuration, and of that into objects."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, InstantiationException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from dof_lightning.config import catalog
from dof_lightning.config.command_line import config_dir_flags, config_dirs
from dof_lightning.config.messages import as_typed, explain, is_of_hydra, list_of_options
from dof_lightning.config.plugins import plugins
from dof_lightning.errors import UserError
from dof_lightning.plain import find_reference
from dof_lightning.threads import cores_of_a_job


class MadeFromNames(ConfigSource):
    """Hydra's view of the options that need no file, which `hydra.searchpath` in `conf/train.yaml` names.

    It serves `catalog.content_of` as if it were files; a file in `conf/` of the same name comes first.
    """

    @staticmethod
    def scheme() -> str:
        """The scheme of `made-from-names://conf` in the search path."""
        return "made-from-names"

    def available(self) -> bool:
        """True: there is nothing to open."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Whether a path names a folder of `conf/`, `tuned` included."""
        return config_path in (*catalog.groups(), "tuned")

    def is_config(self, config_path: str) -> bool:
        """Whether an option is made from its name."""
        return self._content(config_path) is not None

    def load_config(self, config_path: str) -> ConfigResult:
        """Loads an option's content; experiments and tuned values set keys of the whole configuration."""
        is_global = config_path.startswith(("experiment/", "tuned/"))
        content = OmegaConf.create(self._content(config_path) or {})
        header = {"package": "_global_" if is_global else None}
        return ConfigResult(provider=self.provider, path=self.full_path(), config=content, header=header)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """The options of a group, for Hydra's own messages."""
        return [] if results_filter == ObjectType.GROUP else catalog.options(config_path)

    @staticmethod
    def _content(config_path: str) -> dict[str, object] | None:
        group, _, option = config_path.removesuffix(".yaml").rpartition("/")
        return catalog.content_of(group, option)


class OptionsOfOthers(SearchPathPlugin):
    """Lets Hydra find the options of installed plug-ins (`plugins`) and of `--config-dir`, after ours."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Adds the folders (Hydra hook); `hydra.main` adds that of `--config-dir` by itself, compositions do not."""
        for package, folder in plugins().items():
            if folder.is_dir():  # a plug-in may contain classes only
                search_path.append(package, str(folder))
        for folder in config_dirs(sys.argv[1:]):
            search_path.append("config-dir", str(folder.resolve()))


for ours in (MadeFromNames, OptionsOfOthers):
    Plugins.instance().register(ours)

_MERGED = ("callbacks", "logger", "debug")  # groups of nodes by name, in which several options make sense together


def compose(overrides: Sequence[str]) -> DictConfig:
    """Composes `conf/train.yaml` with overrides, from any working folder.

    Raises:
        UserError: an override names a key or option that does not exist, or is not `key=value`.
    """
    try:
        with _hydra():
            cfg = hydra.compose("train", overrides=list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if not is_of_hydra(error):
            raise
        raise UserError(explain(error, overrides)) from error
    choices = cfg.hydra.runtime.choices
    with open_dict(cfg):
        del cfg["hydra"]
    return _for_own_data(with_choices(cfg, choices), overrides)


def _hydra() -> AbstractContextManager[Any]:
    if GlobalHydra.instance().is_initialized():
        return nullcontext()
    return hydra.initialize_config_dir(str(catalog.CONF_DIR), version_base="1.3")


def composed_by_hydra_main(cfg: DictConfig) -> tuple[DictConfig, list[str]]:
    """Adds the chosen option of each group to the configuration that `hydra.main` hands over.

    Returns:
        the configuration, and the overrides that were typed; in a sweep, those of this job.

    Raises:
        UserError: a sweep asks for several devices per job, which Lightning would start as sweeps of their own.
    """
    if is_sweep():
        for key in ("trainer.devices", "trainer.num_nodes"):
            if (number := OmegaConf.select(cfg, key)) not in (1, "1"):
                raise UserError(f"a sweep (-m) runs one device per job, got {key}={number}; use {key}=1")
        os.environ.setdefault("OMP_NUM_THREADS", str(cores_of_a_job(HydraConfig.get().launcher)))
    hydra = HydraConfig.get()
    typed = list(hydra.overrides.task)
    return _for_own_data(with_choices(cfg, hydra.runtime.choices), typed), typed


def _for_own_data(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Replaces values tuned on another dataset than the one that data.path leads to by the presets."""
    path, tuned = cfg.data.get("path"), cfg.choices.get("tuned")
    if not path or tuned is None or any(override.lstrip("~+").startswith("tuned") for override in overrides):
        return cfg
    is_tuned = catalog.sections_for(str(cfg.choices.algorithm), str(cfg.choices.data))
    if is_tuned and catalog.name_of(path) not in (None, cfg.data.name):
        return compose([*overrides, "~tuned"])
    return cfg


def program() -> list[str]:
    """The words that started this run, before its overrides; with the folder of configurations if one was named."""
    started, *words = sys.argv
    if not HydraConfig.initialized() or not started.endswith(".py"):  # a call from Python, or a sweep's job elsewhere
        return ["python", "train.py"]
    command = ["dof", "train"] if started == str(catalog.CONF_DIR.parent / "train.py") else ["python", started]
    return command + config_dir_flags(words)


def is_sweep() -> bool:
    """Whether `hydra.main` runs this as one job of a sweep (`-m`)."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def job_number() -> int:
    """The number of this job in its sweep, from 0."""
    return int(HydraConfig.get().job.num)


def is_job_elsewhere() -> bool:
    """Whether this is a job of a sweep in a process of its own (joblib, submitit)."""
    return is_sweep() and not HydraConfig.get().launcher["_target_"].endswith("BasicLauncher")


def build(node: Mapping[str, Any] | DictConfig, key: str = "configuration") -> Any:
    """Instantiates the `_target_`s of a node; `_partial_` ones become factories.

    Args:
        node: a node of the configuration.
        key: the node's key, for messages.

    Raises:
        UserError: a class refuses a value, or a resolved node contains a reference, which nothing has checked.
    """
    if not isinstance(node, DictConfig) and (reference := find_reference(node)) is not None:
        raise UserError(f"{key} contains the reference {reference!r}; write the value that it stands for")
    cfg = node if isinstance(node, DictConfig) else OmegaConf.create(dict(node))
    try:
        return instantiate(cfg)
    except (InstantiationException, OmegaConfBaseException) as error:
        raise UserError(explain(error, what=key)) from error
    except TypeError as error:  # Hydra's own: an error of a class comes as an InstantiationException
        raise UserError(f"{key} cannot be built: {' '.join(str(error).split())}") from error


def build_algorithm(config: Mapping[str, Any], spec: Any) -> Any:
    """Builds the algorithm of a resolved configuration, for the dataset of a spec.

    Raises:
        UserError: it refuses a value or a chosen part, which the message names by its option.
    """
    try:
        made = build(config["algorithm"])
        if not callable(made):
            raise UserError("algorithm._target_ is missing: the class of the algorithm is not named")
        return made(spec=spec)
    except UserError as error:
        raise UserError(as_typed(str(error), config["choices"])) from error


def with_choices(cfg: DictConfig, choices: Mapping[str, str | None]) -> DictConfig:
    """Adds `choices`, the option chosen in each group, so that a run folder records what was typed.

    Raises:
        UserError: several options are chosen for one part: Hydra would mix their values.
    """
    for group in catalog.groups():
        if group in cfg and group not in choices and group not in _MERGED:  # Hydra records no choice of several options
            raise UserError(list_of_options(f"{group}=[...]"))
    with open_dict(cfg):
        cfg.choices = {group: option for group, option in choices.items() if not group.startswith("hydra/")}
    return cfg


def rolls_out(config: Mapping[str, Any]) -> bool:
    """Whether a run plays its environment; runs stored before there was this choice do."""
    return bool(config["rollout"].get("enabled", True))


def is_own_data(config: Mapping[str, Any]) -> bool:
    """Whether a run has experiment=none: its data are named by data.path alone."""
    return bool(config["choices"].get("experiment") == "none")


def task_name(config: Mapping[str, Any]) -> str:
    """The name a run is filed under: its experiment, or the folder of the user's own dataset that it trains on."""
    if not is_own_data(config):
        return str(config["choices"]["experiment"])
    return str(config["data"]["path"]).rstrip("/").rpartition("/")[2]


def to_plain(cfg: DictConfig) -> dict[str, Any]:
    """Converts to plain containers with every interpolation resolved.

    Raises:
        UserError: a mandatory value is missing, or an interpolation leads nowhere.
    """
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from error
    assert isinstance(plain, dict)
    names = {
        key: str(plain[key]) for key in ("run_dir", "resume", "init_from") if plain.get(key) is not None
    }  # as text, because a folder may be named `1`
    return {str(key): value for key, value in plain.items()} | names
