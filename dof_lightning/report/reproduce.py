"""The overrides that reproduce a run, read from its stored configuration."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dof_lightning.config import compose as configuration
from dof_lightning.config.identity import leaves, settings_hash

_NAMED = ("experiment", "algorithm")
_SAID_ANYWAY = ("choices", "run_dir", "seed")
# Keys that may differ from a preset without changing the method.
_HOW_LONG_AND_WHERE = (
    *("seed", "run_dir", "resume", "trust", "trainer", "callbacks", "logger", "checkpoint", "validation", "rollout"),
    *("distributed", "data", "env", "choices", "study"),
)


def overrides_of(config: Mapping[str, Any]) -> list[str]:
    """The experiment, the algorithm, the seed, and all values that differ from their presets.

    Raises:
        UserError: this version has no such experiment or algorithm.
    """
    typed = [f"{group}={config['choices'][group]}" for group in _NAMED]
    preset = configuration.to_plain(configuration.compose(typed))
    typed += [
        f"{group}={option}"
        for group, option in config["choices"].items()
        if option is not None and group not in _NAMED and preset["choices"].get(group) != option
    ]
    usual = configuration.compose(typed)
    dropped = [f"~callbacks.{name}" for name in usual.callbacks if name not in config["callbacks"]]
    known = dict(leaves(configuration.to_plain(usual)))
    differences = [
        f"{key if key in known else f'++{key}'}={_spelled(value)}" for key, value in _differences(config, usual)
    ]
    return [*typed, *dropped, *differences, f"seed={config['seed']}"]


def is_preset(config: Mapping[str, Any]) -> bool:
    """Whether a run's method is the preset of its experiment and algorithm, whatever its duration and machine."""
    preset = configuration.to_plain(configuration.compose([f"{group}={config['choices'][group]}" for group in _NAMED]))
    return settings_hash(_method(config)) == settings_hash(_method(preset))


def _method(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _HOW_LONG_AND_WHERE}


def _differences(config: Mapping[str, Any], preset: DictConfig) -> Iterator[tuple[str, Any]]:
    known = dict(leaves(configuration.to_plain(preset)))
    for key, value in leaves(config):
        unlike = key not in known or known[key] != value
        if unlike and key.partition(".")[0] not in _SAID_ANYWAY and not _follows_another(preset, key):
            yield key, value


def _follows_another(cfg: DictConfig, key: str) -> bool:
    """Whether a key, or one above it, takes its value from another key: `algorithm.seed` from `seed`."""
    node: Any = cfg
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            return False
        if OmegaConf.is_interpolation(node, part):
            return True
        node = node[part]
    return False


def _spelled(value: Any) -> str:
    """Spells a value in Hydra's grammar."""
    if isinstance(value, str) and re.fullmatch(r"[\w./:-]+", value):
        return value
    return json.dumps(value, separators=(",", ":"))
