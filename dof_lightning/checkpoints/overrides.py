"""The `key=value` tails of `dof eval` and `dof export`, which change settings after the weights are trained."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dof_lightning.checkpoints.checkpoint import MODEL_KEYS, Checkpoint, build_algorithm
from dof_lightning.config import checks, messages
from dof_lightning.config import compose as configuration
from dof_lightning.config.arguments import check_arguments
from dof_lightning.config.catalog import options
from dof_lightning.config.command_line import split_tail
from dof_lightning.config.effect import idle_fields
from dof_lightning.config.identity import leaves
from dof_lightning.config.targets import check_targets
from dof_lightning.deployment.structure import describe
from dof_lightning.errors import UserError
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.rollout.certificate import EPISODES

_PARTS = tuple(key for key in MODEL_KEYS if key not in ("seed", "algorithm"))
_GROUPS = (*_PARTS, "env")
_VALUES = ("seed", "trust", "rollout.report_episodes", "rollout.certificate_episodes")
_READ = ", ".join((*_VALUES, "env", *_PARTS, "their keys", "and algorithm.*"))


def override(stored: dict[str, Any], tails: Sequence[str], command: str = "dof eval") -> dict[str, Any]:
    """Applies tails to a checkpoint's configuration, whose interpolations are resolved already.

    Groups are replaced first, as Hydra does. A part of the model (`sampler`, `schedule`, ...) is stored twice, beside
    the algorithm and within it, where it is built from: both change.

    Args:
        stored: the checkpoint's configuration; it is not changed.
        tails: `group=option` or `key=value`.
        command: the command that the tails belong to.

    Raises:
        UserError: a tail is not `key=value`, names a key that an evaluation does not read, or has a value that does
            not fit or has no effect; or a class is not trusted.
    """
    plain = copy.deepcopy(stored) | {"trust": False}  # nothing in a file shows whether it can be trusted
    plain["rollout"].setdefault("certificate_episodes", EPISODES)  # not stored by earlier versions
    pairs = [split_tail(tail) for tail in tails]
    for key, value in pairs:
        if key == "algorithm":
            raise UserError(
                f"algorithm={value}: the algorithm of a checkpoint cannot change; evaluate another "
                "checkpoint, or change keys of it (algorithm.<key>=)"
            )
        _check_read(plain, key, value, command)
        if key in _GROUPS:
            _place(plain, [key], _compose_group(stored["choices"], key, value))
    if not plain["env"]:
        _place(plain, ["env"], _recorded_env(stored["choices"]))
    for key, value in pairs:
        if key not in _GROUPS:
            _set(plain, key, value, command)
    if not plain["trust"]:
        check_targets(plain)
    check_arguments({key: plain[key] for key in ("algorithm", "env")})
    _check_effect(plain, pairs)
    return plain


def build_acting(checkpoint: Checkpoint, config: Mapping[str, Any]) -> DecentralizedPolicy:
    """Builds the trained policy with changed settings, each of which has to change how it acts.

    Args:
        checkpoint: the source of the weights.
        config: the checkpoint's configuration, possibly changed by `override`.

    Raises:
        UserError: as `build_algorithm`, or only training reads a changed key of the algorithm.
    """
    policy = build_algorithm(checkpoint, config).policy()
    stored = checkpoint.config["algorithm"]
    for name, value in config["algorithm"].items():
        # Episodes and noise follow the seed, not what the agents consist of.
        if name in (*_PARTS, "seed") or name not in stored or value == stored[name]:
            continue
        before = dict(config) | {"algorithm": config["algorithm"] | {name: stored[name]}}
        if _acts_alike(policy, checkpoint, before):
            others = list(leaves(stored[name], name))
            key, new = next((leaf for leaf in leaves(value, name) if leaf not in others), (name, value))
            raise UserError(f"algorithm.{key}={new} has no effect: only training reads it; leave it out")
    return policy


def _acts_alike(policy: DecentralizedPolicy, checkpoint: Checkpoint, config: Mapping[str, Any]) -> bool:
    """Whether a policy consists of the same as that of a configuration; False if that cannot be told."""
    try:
        structure, tensors = describe(policy)
        others_structure, others = describe(build_algorithm(checkpoint, config).policy())
    except UserError:  # a class of the user's own, or a value that needs the changed one
        return False
    same = structure == others_structure and tensors.keys() == others.keys()
    return same and all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())


def _check_effect(plain: dict[str, Any], pairs: Sequence[tuple[str, str]]) -> None:
    """Refuses values of the algorithm that it does not read with its other values."""
    idle = idle_fields(plain)
    for key, value in pairs:
        group, _, rest = key.partition(".")
        if group == "algorithm" and (why := idle.get(rest.partition(".")[0])):
            raise UserError(f"{key}={value} has no effect: {why}; leave it out")


def _check_read(plain: dict[str, Any], key: str, value: str, command: str) -> None:
    """Refuses a part that the checkpoint's algorithm lacks, and a number of episodes if none are reported."""
    part = key.partition(".")[0]
    if part in _PARTS and part not in plain["algorithm"]:
        name = plain["choices"]["algorithm"]
        raise UserError(f"{key}={value} has no effect: algorithm={name} does not read it; leave it out")
    if key == "rollout.report_episodes" and command != "dof eval":
        raise UserError(f"{command} does not read `{key}`; it is for dof eval")


def parse(key: str, text: str) -> Any:
    """Reads a value as typed: a number, a truth value, null, text, or a list of them.

    Raises:
        UserError: the text is none of these; the message names the key.
    """
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[index, call-overload]
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"cannot read {key}={text}; write {key}=<value>, or {key}=[<value>,<value>]") from error


def _set(plain: dict[str, Any], key: str, text: str, command: str) -> None:
    values = dict(leaves(plain))
    known = [name for name in values if name in _VALUES or name.split(".")[0] in (*_GROUPS, "algorithm")]
    if key not in known:
        if key in values or key in plain:
            raise UserError(f"{command} does not read `{key}`; it reads {_READ}")
        raise UserError(messages.unknown_key(key, known))
    value = parse(key, text)
    checks.check_value(plain, key, value, values.get(key))
    _place(plain, key.split("."), value)


def _place(plain: dict[str, Any], path: list[str], value: Any) -> None:
    paths = [path, ["algorithm", *path]] if path[0] in plain["algorithm"] else [path]
    for *above, last in paths:
        node = plain
        for name in above:
            node = node[name]
        node[last] = copy.deepcopy(value)


def _recorded_env(choices: dict[str, Any]) -> Any:
    """The environment that the spec names, for a checkpoint of a Trainer without one."""
    name = choices["env"]
    if name not in options("env"):
        raise UserError(f"its data came from {name!r}, which is no option of env; type the env= to play in")
    return _compose_group(choices, "env", name)


def _compose_group(choices: dict[str, Any], group: str, option: str) -> Any:
    """Composes a group as for a training with the checkpoint's algorithm and data, tuned values included."""
    kept = [f"{name}={choices[name]}" for name in ("algorithm", "data") if choices[name] in options(name)]
    return configuration.to_plain(configuration.compose([*kept, f"{group}={option}"]))[group]
