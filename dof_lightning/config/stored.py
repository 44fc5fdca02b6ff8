"""A check that a configuration stored in a run's folder or in a checkpoint is whole."""

from pathlib import Path
from typing import Any

import yaml

from dof_lightning.moved import current_config
from dof_lightning.plain import check_plain, find_reference
from dof_lightning.schema import anything, many, mapping, optional, record, text, truth, whole

_MOST_BYTES = 200_000  # our files have some 5,000; a megabyte takes half a minute to parse


def _option(place: str, value: Any) -> None:
    """Checks the choice in a group: one option, none, or several, as in callbacks."""
    (many(text) if isinstance(value, list) else optional(text))(place, value)


# The keys that are read directly; classes that are built from other keys check their arguments themselves.
_CONFIG = record(
    {
        "seed": whole(0, 2**64),
        "trust": truth,
        **dict.fromkeys(("algorithm", "env", "callbacks"), mapping),
        "choices": record(dict.fromkeys(("algorithm", "data", "env", "experiment"), text), others=_option),
        "data": record({"global_batch_size": whole(0)}, others=anything),
        "trainer": record({"max_steps": whole(-1), "accumulate_grad_batches": whole(1)}, others=anything),
        "rollout": record(
            {"report_episodes": whole(0), "certificate_episodes": whole(0)},
            others=anything,
            optional_keys=("certificate_episodes",),
        ),
    },
    others=anything,
)


def check_stored(node: Any) -> dict[str, Any]:
    """Checks a stored configuration and returns it in today's names.

    Args:
        node: nested plain containers.

    Raises:
        ValueError: it is not a configuration; the message names the missing or wrong part.
    """
    check_plain(node)
    if (reference := find_reference(node)) is not None:
        raise ValueError(f"it contains the reference {reference!r}, which no stored configuration has")
    _CONFIG("", node)
    config: dict[str, Any] = current_config(node)
    return config


class _Loader(yaml.SafeLoader):
    """A loader without aliases: we write none, and a page of them can expand beyond any memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it contains an alias (*)")
        return super().compose_node(parent, index)


def read_stored(path: Path) -> dict[str, Any]:
    """Reads a `config.yaml`; errors as in `check_stored`.

    Raises:
        OSError: the file does not exist, or cannot be read.
    """
    content = path.read_bytes()
    if len(content) > _MOST_BYTES:
        raise ValueError(f"it has {len(content):,} bytes")
    try:
        node = yaml.load(content.decode(), _Loader)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (yaml.YAMLError, TypeError, AttributeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise ValueError("it is not YAML" + (f" (line {mark.line + 1})" if mark else "")) from error
    return check_stored(node)
