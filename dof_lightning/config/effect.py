"""A check that every override takes effect: one that nothing reads is refused, so that no one relies on it.

A key takes effect if it belongs to a part that is built (the algorithm, the dataset's source, a callback), if
such a part refers to it (`${denoiser}`), or if a run reads it by its name.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dof_lightning.config import compose as configuration
from dof_lightning.config.catalog import CONF_DIR
from dof_lightning.config.compose import build, rolls_out, to_plain
from dof_lightning.config.identity import leaves
from dof_lightning.config.targets import attribute
from dof_lightning.errors import UserError
from dof_lightning.spec import ActionKind

MODEL_PARTS = ("denoiser", "noise_factorization", "data_factorization", "value_mixer", "schedule", "sampler")
_BY_NAME = (
    *("seed", "run_dir", "resume", "init_from", "trust", "choices", "study", "env", "logger"),
    *("data.path", "data.global_batch_size"),
    *("rollout.enabled", "validation.every_n_steps", "distributed.timeout_seconds"),
)
_WHERE_PLAYED = ("rollout.report_episodes", "rollout.certificate_episodes")
# Arguments of Lightning's Trainer beside those of conf/trainer; the run sets the others itself, or they do nothing.
_OF_TRAINER = (
    *("overfit_batches", "profiler", "limit_val_batches"),
    *("detect_anomaly", "deterministic", "benchmark"),
)
_INSTEAD = {
    "trainer.gradient_clip_val": "type algorithm.gradient_clip=",
    "trainer.max_epochs": "type trainer.max_steps=",
    "trainer.val_check_interval": "type validation.every_n_steps=",
}


def check_effect(cfg: DictConfig, preset: Mapping[str, Any]) -> None:
    """Refuses overrides that nothing reads.

    Args:
        cfg: the composed configuration.
        preset: the configuration of the same choices without typed values.

    Raises:
        UserError: an override takes no effect; the message names the key and the reason.
    """
    for key, reason in without_effect(cfg, preset).items():
        raise UserError(f"{key} has no effect: {reason}; leave it out")


def check_effect_on(config: Mapping[str, Any], action_kind: ActionKind) -> None:
    """Refuses values of an algorithm that are for actions of the other kind.

    Args:
        config: the resolved configuration.
        action_kind: the dataset's kind of actions.

    Raises:
        UserError: a value is for the other kind; the message names the key.
    """
    always = idle_fields(config)  # checked before the environment was known
    idle = {name: why for name, why in idle_fields(config, action_kind).items() if name not in always}
    values = {key: value for key, value in leaves(config["algorithm"]) if key.partition(".")[0] in idle}
    if not values:
        return
    usual = dict(leaves(preset_of(config["choices"])["algorithm"]))
    for key, value in values.items():
        if usual.get(key) != value:
            reason = idle[key.partition(".")[0]]
            raise UserError(f"algorithm.{key}={value} has no effect: {reason}; leave it out")


def without_effect(cfg: DictConfig, preset: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The overrides, `group=option` or `key=value`, that nothing reads, with the reason.

    Args:
        cfg: the composed configuration.
        preset: the configuration of its choices alone; None means that it is composed.
    """
    plain = to_plain(cfg)
    written: Any = OmegaConf.to_container(cfg, resolve=False)
    idle = idle_fields(plain)
    live = live_keys(plain, written, idle)
    choices: dict[str, Any] = plain["choices"]
    unread = [group for group in choices if group in plain and not any(_is_in(key, (group,)) for key in live)]
    usual = _usual_choices(choices, unread)
    found = {f"{key}={choices[key]}": _reason(key, plain, idle) for key in unread if choices[key] != usual.get(key)}
    values, presets = dict(leaves(plain)), dict(leaves(preset_of(choices) if preset is None else preset))
    for key, text in leaves(written):
        refers = isinstance(text, str) and text.startswith("${")
        if not refers and not _is_in(key, live) and (key not in presets or presets[key] != values.get(key)):
            found[f"{key}={values.get(key)}"] = _reason(key, plain, idle)
    return found


def _usual_choices(choices: Mapping[str, Any], unread: Sequence[str]) -> Mapping[str, Any]:
    """The default options of the groups that nothing reads."""
    if not unread:
        return choices
    read = {group: option for group, option in choices.items() if group not in unread}
    usual: Mapping[str, Any] = preset_of(read)["choices"]
    return usual


def idle_fields(plain: Mapping[str, Any], action_kind: ActionKind | None = None) -> dict[str, str]:
    """Fields of the algorithm that nothing reads; a user-defined algorithm need not declare them."""
    made = build(plain["algorithm"])
    return made.idle(action_kind) if hasattr(made, "idle") else {}


def live_keys(plain: Mapping[str, Any], written: Mapping[str, Any], idle: Mapping[str, str]) -> set[str]:
    """The keys that are read, each including everything below it."""
    chosen_trainer: Any = OmegaConf.load(CONF_DIR / "trainer" / "auto.yaml")
    waiting = [
        *_BY_NAME,
        *(_WHERE_PLAYED if rolls_out(plain) else ()),
        *(f"algorithm.{name}" for name in plain["algorithm"] if name not in idle),
        *(key for name in plain["data"]["module"] if (key := f"data.module.{name}") not in idle),
        *(f"trainer.{name}" for name in (*chosen_trainer, *_OF_TRAINER)),
        *(f"callbacks.{name}" for name, node in plain["callbacks"].items() if rolls_out(plain) or not _plays(node)),
        *(["data.source"] if plain["data"].get("path") is None else []),
        *(["study"] if plain["choices"].get("study") not in (None, "none") else []),
    ]
    live: set[str] = set()
    while waiting:
        key = waiting.pop()
        if key not in live:
            live.add(key)
            waiting.extend(_referred_to(_select(written, key)))
    return live


def _plays(node: Any) -> bool:
    """Reports whether a callback is left out if nothing is played."""
    return isinstance(node, Mapping) and bool(attribute(str(node.get("_target_")), "needs_environment"))


def _select(node: Any, key: str) -> Any:
    for name in key.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node


def _referred_to(node: Any) -> Iterator[str]:
    """Yields the keys in `${key}`, also in lists and as arguments of any resolver but that of environment variables."""
    for _, value in leaves(node):
        for inside in re.findall(r"\$\{([^{}]*)", str(value)) if isinstance(value, str | list) else ():
            if not inside.startswith("oc.env:"):  # it refers to environment variables
                yield from re.findall(r"[A-Za-z_]\w*(?:\.\w+)*", inside)


def _is_in(key: str, prefixes: Iterable[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _reason(key: str, plain: Mapping[str, Any], idle: Mapping[str, str]) -> str:
    group, _, rest = key.partition(".")
    fields = {"algorithm": rest.partition(".")[0], "data": f"data.module.{rest.rpartition('.')[2]}"}
    if (name := fields.get(group, group)) in idle:
        return idle[name]
    if group == "data" and plain["data"].get("path"):
        return f"data.path={plain['data']['path']} names the dataset"
    if group in ("rollout", "callbacks") and not rolls_out(plain):
        return "rollout=none plays nothing"
    if group == "trainer":
        return _INSTEAD.get(key, "a run sets it itself, or Lightning ignores it here")
    return f"algorithm={plain['choices']['algorithm']} does not read it" if group in MODEL_PARTS else "nothing reads it"


def preset_of(choices: Mapping[str, str | None]) -> dict[str, Any]:
    """The resolved configuration of the same choices without typed values."""
    typed = [f"{group}={option}" for group, option in choices.items() if option is not None]
    return to_plain(configuration.compose(typed if choices.get("tuned") is not None else [*typed, "~tuned"]))
