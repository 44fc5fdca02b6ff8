"""The origin of a run's values that were not typed."""

from collections.abc import Mapping
from typing import Any

from dof_lightning.config.catalog import options, sections_for, sections_of
from dof_lightning.config.identity import leaves


def origin_of_values(config: Mapping[str, Any]) -> list[str]:
    """Lines that name each section of `conf/hyperparams` in effect with its values, or report that there is none.

    Args:
        config: the resolved configuration.
    """
    choices = config["choices"]
    algorithm, data, tuned = (choices.get(group) for group in ("algorithm", "data", "tuned"))
    lines = [
        f"{section['where']} ({', '.join(section['datasets'])}): "
        + ", ".join(f"{key}={value}" for key, value in values.items())
        for section, values in _in_effect([] if tuned is None else sections_of(tuned), config)
    ]
    if lines:
        return lines
    if tuned is None and sections_for(algorithm, data):
        return [f"presets of conf/algorithm; values tuned on {data} are not used (tuned={algorithm}_{data} uses them)"]
    others = [name for name in options("algorithm") if sections_for(name, data)]
    beside = f", though it has some for {', '.join(others)}" if others else ""
    return [f"presets of conf/algorithm; conf/hyperparams has none for {algorithm} on this dataset{beside}"]


def _in_effect(
    matching: list[dict[str, Any]], config: Mapping[str, Any]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The values of each section that are in effect: neither a later section nor an override replaces them."""
    last = {key: section for section in matching for key, _ in leaves(section["values"])}
    configured = dict(leaves(config))
    values_of = [
        (section, {k: v for k, v in leaves(section["values"]) if last[k] is section and configured.get(k) == v})
        for section in matching
    ]
    return [(section, values) for section, values in values_of if values]
