"""Checks that refuse a configuration before anything is built."""

from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dof_lightning.config.arguments import DESCRIPTIONS, asks_for, check_arguments
from dof_lightning.config.catalog import check_no_tilde, content_of, file_of, options
from dof_lightning.config.compose import is_own_data, to_plain
from dof_lightning.config.effect import check_effect, preset_of
from dof_lightning.config.identity import is_class_of_ours, leaves
from dof_lightning.config.stored import check_stored
from dof_lightning.config.targets import attribute, check_targets
from dof_lightning.errors import UserError
from dof_lightning.plain import find_reference
from dof_lightning.spec import EnvSpec

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
    "rollout.certificate_episodes",
    "checkpoint.every_n_steps",
    "validation.every_n_steps",
    "distributed.timeout_seconds",
)
_POSITIVE_OR_NULL = ("rollout.until_plateau",)
_NOT_NEGATIVE = ("seed", "data.seed", "data.num_workers", "data.heldout_windows")
_SEVERAL_TYPES = ("trainer.devices", "trainer.precision")
_CHOICES = {
    "trainer.precision": ("32-true", "bf16-mixed"),  # fused Adam and our clipping would see scaled gradients
    "trainer.strategy": ("auto", "ddp", "fsdp2"),
}


def check(cfg: DictConfig, everything_read: bool = True) -> None:
    """Refuses a configuration before anything is built.

    Args:
        cfg: the composed configuration.
        everything_read: refuse overrides that take no effect; False for one of several runs that share their
            overrides.

    Raises:
        UserError: no experiment, a value of the wrong type or sign, a class that is not trusted, or a key that nothing
            reads.
    """
    if cfg.choices.get("experiment") is None:
        raise UserError(f"experiment= is missing; choose one of {', '.join(options('experiment'))}")
    if is_own_data(cfg) and cfg.data.path is None:
        raise UserError("data.path= is missing: experiment=none is for your own data; type data.path=<folder>")
    _check_tuned(cfg.choices)
    _check_files(cfg)
    plain, preset = to_plain(cfg), preset_of(cfg.choices)
    _check_types(cfg, plain, preset)
    for key, choices in _CHOICES.items():
        if (value := OmegaConf.select(cfg, key)) not in choices:
            raise UserError(f"{key} must be {' or '.join(choices)}, got {value}")
    _check_devices(plain["trainer"]["devices"])
    _check_warmup(plain)
    if not cfg.trust:
        check_targets(plain)
    _check_denoiser(plain)
    written = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(written, dict)
    check_arguments(plain, {str(key): value for key, value in written.items()})
    _check_storable(plain)
    if everything_read and cfg.choices.get("study") in (None, "none"):  # a study's runs are checked together
        check_effect(cfg, preset)


def _check_storable(plain: Mapping[str, Any]) -> None:
    """Refuses values with which nobody could read the checkpoint after the training."""
    for key, value in leaves(plain):
        if (reference := find_reference(value)) is not None:
            raise UserError(f"{key} contains {reference!r}: a value that is stored may not hold ${{...}}; type another")
    try:
        check_stored(dict(plain))
    except ValueError as error:
        raise UserError(f"the configuration could not be stored: {error}; type another value") from error


def _check_files(cfg: DictConfig) -> None:
    """Refuses to write or read nowhere, and in a folder that is named `~`."""
    for key in ("run_dir", "resume", "init_from", "data.path", "data.root"):
        text = OmegaConf.select(cfg, key)
        if text == "":
            raise UserError(f"{key}= is empty; type a folder, or leave it out")
        check_no_tilde(key, text)
    if cfg.callbacks.get("checkpoint") is None:
        raise UserError(
            "callbacks.checkpoint is missing: it saves the checkpoint that a run is resumed from and evaluated by; "
            "checkpoint.every_n_steps=<n> sets how often"
        )
    if cfg.resume is None:
        raise UserError("resume must be auto, never, or the path of a .ckpt or run folder")


def _check_warmup(plain: Mapping[str, Any]) -> None:
    """Refuses a warm-up longer than the training; Lightning would refuse it only after data have been made."""
    steps, end = plain["algorithm"].get("learning_rate_warmup_steps", 0), plain["trainer"]["max_steps"]
    if isinstance(steps, int) and steps >= end:
        raise UserError(f"algorithm.learning_rate_warmup_steps={steps} must be below trainer.max_steps={end}")


def _check_devices(devices: Any) -> None:
    """Refuses a value that is neither a number of processes nor a choice of devices, before Lightning does."""
    is_number = str(devices) in ("auto", "-1") or (str(devices).isdecimal() and int(devices) > 0)
    chosen = chosen_devices(devices)
    if not (is_number or (chosen and all(name.isdecimal() for name in chosen))):
        raise UserError(f"trainer.devices must be a number of processes, auto, or devices as [0,1], got {devices}")


def chosen_devices(devices: Any) -> list[str]:
    """The devices of `[0,1]`, `'0,1'` or `'1,'`; none if `trainer.devices` is a number or auto."""
    if isinstance(devices, list | tuple):
        return [str(device) for device in devices]
    return [name.strip() for name in devices.split(",") if name.strip()] if "," in str(devices) else []


def _check_tuned(choices: Mapping[str, Any]) -> None:
    """Refuses a typed option of group tuned that does not exist; to Hydra the option is optional."""
    typed, own = choices.get("tuned"), f"{choices['algorithm']}_{choices['data']}"
    if typed not in (None, own) and content_of("tuned", typed) is None:
        raise UserError(
            f"tuned={typed}: conf/hyperparams has no section for it; type <algorithm>_<dataset>, or ~tuned for presets"
        )


def check_action_kind(config: Mapping[str, Any], environment: EnvSpec) -> None:
    """Refuses an algorithm that does not learn the environment's kind of actions, before any data are built.

    Raises:
        UserError: the algorithm does not; the message names the algorithms that fit.
    """
    kind = environment.action_kind

    def learns(target: str) -> bool:
        return kind in (attribute(target, "action_kinds") or ())

    if not learns(config["algorithm"]["_target_"]):
        raise UserError(
            f"algorithm={config['choices']['algorithm']} does not learn {kind} actions, which {environment.name} has; "
            f"choose {_options_that('algorithm', learns)}"
        )


def _check_denoiser(plain: Mapping[str, Any]) -> None:
    """Refuses a denoiser of actions for an algorithm that diffuses trajectories, and the other way round."""
    wanted, given = (attribute(plain[key]["_target_"], "diffuses") for key in ("algorithm", "denoiser"))
    if None in (wanted, given) or wanted == given:
        return
    fitting = _options_that("denoiser", lambda target: attribute(target, "diffuses") == wanted)
    raise UserError(
        f"denoiser={plain['choices']['denoiser']} is for {given}, but algorithm={plain['choices']['algorithm']} "
        f"diffuses {wanted}; choose {fitting}"
    )


def _options_that(group: str, fit: Callable[[str], bool]) -> str:
    """The options of a group whose class fits, as `group=one or another`."""
    return f"{group}={' or '.join(option for option in options(group) if fit(target_of(group, option)))}"


def target_of(group: str, option: str) -> str:
    """The `_target_` that an option names, directly or through the option it is based on; nothing is composed."""
    content: Any = OmegaConf.load(str(file_of(group, option)))
    if "_target_" in content:
        return str(content._target_)
    base = next(base for base in content.defaults if isinstance(base, str) and base != "_self_")
    return target_of(group, base.partition("@")[0])


def _check_types(cfg: DictConfig, plain: Mapping[str, Any], preset: Mapping[str, Any]) -> None:
    defaults, values = dict(leaves(preset)), dict(leaves(plain))
    _check_classes(values, defaults)
    # If a value is only referred to, the message names the key that a user can type.
    for key, _ in leaves(OmegaConf.to_container(cfg, resolve=False)):
        if key not in _SEVERAL_TYPES:
            check_value(plain, key, values.get(key), defaults.get(key))


def _check_classes(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuses another class of ours behind a chosen option: choices and values identify a run."""
    for key, value in values.items():
        if is_class_of_ours(key, value) and defaults.get(key, value) != value:
            group = key.partition(".")[0]
            raise UserError(
                f"{key}={value}: the class of an option cannot be typed; choose an option of group {group}, or write "
                f"a yaml for it in conf/{group} (docs/guide/extending.md)"
            )


def check_value(plain: Mapping[str, Any], key: str, value: Any, default: Any) -> None:
    """Refuses a value of another type than the default's, if that is a number or a truth value.

    A whole default, such as 5, does not require a whole value if the class that receives it takes any number.

    Raises:
        UserError: the type differs, or a number is too small.
    """
    if type(default) is int and asks_for(plain, key, float):
        default = float(default)
    if value is not None and isinstance(default, (bool, int, float)):
        accepted = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(value, accepted) or isinstance(value, bool) != isinstance(default, bool):
            raise UserError(f"{key} must be {DESCRIPTIONS[type(default)]}, got {value!r}")
    for keys, least in ((_POSITIVE, 1), (_NOT_NEGATIVE, 0)):
        if key in keys and (value is None or value < least):
            raise UserError(f"{key} must be at least {least}, got {value}")
    if key in _POSITIVE_OR_NULL and value is not None and (type(value) is not int or value < 1):
        raise UserError(f"{key} must be null or an integer, at least 1, got {value!r}")
