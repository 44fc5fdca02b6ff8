"""From what a user typed to a checked configuration; every mistake becomes one line."""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from dof_lightning.config.arguments import asks_for, check_arguments
from dof_lightning.config.catalog import CONF_DIR as CONF_DIR
from dof_lightning.config.catalog import groups
from dof_lightning.config.catalog import options as options
from dof_lightning.config.identity import is_class_of_ours, leaves
from dof_lightning.config.messages import exit_with_one_line as exit_with_one_line
from dof_lightning.config.messages import unknown_key as unknown_key
from dof_lightning.config.source import register
from dof_lightning.config.targets import attribute, check_targets
from dof_lightning.errors import UserError
from dof_lightning.threads import cores_of_a_job

register()  # the options that are made from their names

_POSITIVE = (
    "trainer.max_steps",
    "trainer.num_nodes",
    "trainer.accumulate_grad_batches",
    "trainer.log_every_n_steps",
    "data.episodes",
    "data.global_batch_size",
    "rollout.episodes",
    "rollout.every_n_steps",
    "rollout.report_episodes",
    "checkpoint.every_n_steps",
    "validation.every_n_steps",
    "distributed.timeout_seconds",
)
_NOT_NEGATIVE = ("seed", "data.seed", "data.num_workers", "data.heldout_windows")
_SEVERAL_TYPES = ("trainer.devices", "trainer.precision")
_CHOICES = {
    "trainer.precision": ("32-true", "bf16-mixed"),  # fused Adam and our clipping would see scaled gradients
    "trainer.strategy": ("auto", "ddp", "fsdp2"),
}


def compose(overrides: Sequence[str]) -> DictConfig:
    """Composes `conf/train.yaml` with overrides, from any working folder.

    Raises:
        UserError: an override names no key, no option, or is not `key=value`.
    """
    try:
        with _hydra():
            cfg = hydra.compose("train", overrides=list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, overrides)) from error
    choices = cfg.hydra.runtime.choices
    with open_dict(cfg):
        del cfg["hydra"]
    return with_choices(cfg, choices)


def _hydra() -> AbstractContextManager[Any]:
    if GlobalHydra.instance().is_initialized():
        return nullcontext()
    return hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3")


def composed_by_hydra_main(cfg: DictConfig) -> tuple[DictConfig, list[str]]:
    """The configuration `hydra.main` hands over, with the chosen option of each group written down.

    Returns:
        it, and the overrides that were typed; in a sweep, what this job got of them.

    Raises:
        UserError: a sweep asks for several devices a job, which Lightning would start as sweeps of their own.
    """
    if is_sweep():
        for key in ("trainer.devices", "trainer.num_nodes"):
            if (number := OmegaConf.select(cfg, key)) not in (1, "1"):
                raise UserError(f"a sweep (-m) runs one device a job, got {key}={number}; use {key}=1")
        os.environ.setdefault("OMP_NUM_THREADS", str(cores_of_a_job(HydraConfig.get().launcher)))
    told = HydraConfig.get()
    return with_choices(cfg, told.runtime.choices), list(told.overrides.task)


def is_sweep() -> bool:
    """Whether `hydra.main` runs this as one job of a sweep (`-m`)."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def is_job_elsewhere() -> bool:
    """Whether this is a job of a sweep in a process of its own (joblib, submitit)."""
    return is_sweep() and not HydraConfig.get().launcher["_target_"].endswith("BasicLauncher")


def build(node: Mapping[str, Any] | DictConfig) -> Any:
    """Instantiates the `_target_`s of a node; `_partial_` ones become factories.

    Raises:
        UserError: a value is refused by the class it is for.
    """
    cfg = node if isinstance(node, DictConfig) else OmegaConf.create(dict(node))
    try:
        return instantiate(cfg)
    except (InstantiationException, OmegaConfBaseException) as error:
        cause = error.__cause__
        raise UserError(str(cause) if isinstance(cause, UserError) else explain(error)) from error


def with_choices(cfg: DictConfig, choices: Mapping[str, str | None]) -> DictConfig:
    """Adds `choices`, the option picked in each group, so that a run folder tells what was typed."""
    with open_dict(cfg):
        cfg.choices = {group: option for group, option in choices.items() if not group.startswith("hydra/")}
    return cfg


def rolls_out(config: Mapping[str, Any]) -> bool:
    """Whether a run plays its environment; configurations stored before there was a choice do."""
    return bool(config["rollout"].get("enabled", True))


def check(cfg: DictConfig) -> None:
    """Refuses a configuration before anything is built.

    Raises:
        UserError: no experiment, a value of the wrong type or sign, or a class that is not trusted.
    """
    if cfg.choices.get("experiment") is None:
        raise UserError(f"experiment= is missing; choose one of {', '.join(options('experiment'))}")
    if cfg.resume is None:
        raise UserError("resume must be auto, never, or the path of a .ckpt or run folder")
    _check_types(cfg)
    for key, choices in _CHOICES.items():
        if (value := OmegaConf.select(cfg, key)) not in choices:
            raise UserError(f"{key} must be {' or '.join(choices)}, got {value}")
    plain = to_plain(cfg)
    if not cfg.trust:
        check_targets(plain)
    _check_denoiser(plain)
    written = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(written, dict)
    check_arguments(plain, {str(key): value for key, value in written.items()})


def _check_denoiser(plain: Mapping[str, Any]) -> None:
    """Refuses a denoiser of actions for an algorithm that diffuses trajectories, and the other way round."""
    wanted, given = (attribute(plain[key]["_target_"], "diffuses") for key in ("algorithm", "denoiser"))
    if None in (wanted, given) or wanted == given:
        return
    files = {option: OmegaConf.load(CONF_DIR / "denoiser" / f"{option}.yaml") for option in options("denoiser")}
    targets = {option: str(OmegaConf.select(file, "_target_")) for option, file in files.items()}
    fitting = [option for option, target in targets.items() if attribute(target, "diffuses") == wanted]
    raise UserError(
        f"denoiser={plain['choices']['denoiser']} is for {given}, but algorithm={plain['choices']['algorithm']} "
        f"diffuses {wanted}; choose denoiser={' or '.join(fitting)}"
    )


def _check_types(cfg: DictConfig) -> None:
    groups = [f"{group}={option}" for group, option in cfg.choices.items() if option is not None]
    plain = to_plain(cfg)
    defaults, values = dict(leaves(to_plain(compose(groups)))), dict(leaves(plain))
    _check_classes(values, defaults)
    # Of what is only referred to, the key that a user can type is named.
    for key, _ in leaves(OmegaConf.to_container(cfg, resolve=False)):
        if key not in _SEVERAL_TYPES:
            check_value(plain, key, values.get(key), defaults.get(key))


def _check_classes(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuses another class of ours behind a chosen option: a run is known by its choices and values."""
    for key, value in values.items():
        if is_class_of_ours(key, value) and defaults.get(key, value) != value:
            group = key.partition(".")[0]
            raise UserError(
                f"{key}={value}: the class of an option cannot be typed; choose an option of group {group}, or write "
                f"a yaml for it in conf/{group} (docs/extending.md)"
            )


def check_value(plain: Mapping[str, Any], key: str, value: Any, default: Any) -> None:
    """Refuses a value of another type than the default's, where that is a number or a truth value.

    A default like 5 is whole by chance where the class that gets it takes any number.

    Raises:
        UserError: it is, or a number is too small.
    """
    if type(default) is int and asks_for(plain, key, float):
        default = float(default)
    if value is not None and isinstance(default, (bool, int, float)):
        accepted = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(value, accepted) or isinstance(value, bool) != isinstance(default, bool):
            raise UserError(f"{key} must be {_article(default)}, got {value!r}")
    for keys, least in ((_POSITIVE, 1), (_NOT_NEGATIVE, 0)):
        if key in keys and (value is None or value < least):
            raise UserError(f"{key} must be at least {least}, got {value}")


def _article(value: bool | int | float) -> str:
    if isinstance(value, bool):
        return "true or false"
    return "an integer" if isinstance(value, int) else "a number"


def to_plain(cfg: DictConfig) -> dict[str, Any]:
    """Plain containers with every interpolation resolved.

    Raises:
        UserError: a mandatory value is missing, or an interpolation leads nowhere.
    """
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from error
    assert isinstance(plain, dict)
    names = {key: str(plain[key]) for key in ("run_dir", "resume") if plain.get(key) is not None}  # a folder may be `1`
    return {str(key): value for key, value in plain.items()} | names


def explain(error: Exception, overrides: Sequence[str] = ()) -> str:
    """One line for an exception of Hydra or OmegaConf: the key, and the choices or the fix.

    Args:
        error: the exception.
        overrides: what was typed, whose experiment and algorithm say which keys there are.
    """
    text = " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        if group == "hydra/launcher":
            return f"{group}={option} is not installed; pip install 'dof-lightning[sweep]' has joblib and submitit"
        return f"{group}={option} does not exist; choose one of {', '.join(options(group))}"
    if re.match(r"Could not override 'suite'", text):
        return "a suite of many runs is started by `dof bench suite=<name>` (docs/benchmarking.md), not by train.py"
    if re.match(r"Could not override 'study\.", text):
        return "there is no study here; name one by study=<name>, or use an experiment that has one (docs/studies.md)"
    if unknown := re.match(r"Could not override '([^']+)'", text):
        return unknown_key(unknown[1], _known_keys(overrides))
    if appended := re.match(r"Could not append to config. An item is already at '([^']+)'", text):
        return f"`{appended[1]}` exists already; drop the + before it"
    if parsed := re.match(r"Error parsing override '(.*?)'", text):
        return f"cannot read {parsed[1]!r}; write key=value"
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        where = re.search(r"full_key: (\S+)", text)
        return f"{where[1] if where else 'configuration'} cannot be built: {' '.join(str(error.__cause__).split())}"
    return re.sub(r" (See https|full_key:|object_type=).*", "", text)


def _known_keys(overrides: Sequence[str]) -> list[str]:
    """Of the experiment and algorithm that are named, as far as they exist."""
    default = f"experiment={options('experiment')[0]}"
    named = {text.partition("=")[0]: text for text in (default, *overrides) if _names_options(text)}
    try:
        cfg = compose(list(named.values()))
    except UserError:
        cfg = compose([default])
    plain = OmegaConf.to_container(cfg, resolve=False)
    return [name for name, _ in leaves(plain)] + groups()


def _names_options(text: str) -> bool:
    return text.partition("=")[0] in ("experiment", "algorithm")
