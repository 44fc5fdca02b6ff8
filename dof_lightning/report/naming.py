"""The names of methods on one dataset: with the keys in which they differ, if one method has several settings."""

from collections.abc import Iterator, Sequence

from dof_lightning.report.store import Record

_CHANGED = ", changed"  # marks a variant without a name of its own


def changed(algorithm: str) -> str:
    """The variant of a run whose method is not its preset, before the other reported runs are known."""
    return algorithm + _CHANGED


def name_apart(records: Sequence[Record]) -> Iterator[tuple[str, list[Record]]]:
    """Yields labels, and the runs of each, for one algorithm on one dataset.

    Runs of one name are seeds of one method unless a seed occurs twice: then every setting has its own row. It is
    named after the overrides that were typed for it only; so is a setting that is not its preset.
    """
    parts = [part for members in _by(records, "variant") for part in _settings(members)]
    labels = [_label(part, parts) for part in parts]
    for mark in (_revision, _settings_hash):
        twice = {label for label in labels if labels.count(label) > 1}
        labels = [
            f"{name}, {mark(part[0])}" if name in twice else name for name, part in zip(labels, parts, strict=True)
        ]
    yield from zip(labels, parts, strict=True)


def _by(records: Sequence[Record], name: str) -> list[list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(getattr(record, name), []).append(record)
    return list(found.values())


def _settings(members: list[Record]) -> list[list[Record]]:
    seeds = {record.seed for record in members}
    return [members] if len(seeds) == len(members) else _by(members, "settings_hash")


def _label(part: Sequence[Record], parts: Sequence[Sequence[Record]]) -> str:
    first = part[0]
    unnamed = first.variant == changed(first.algorithm)
    alone = sum(other[0].variant == first.variant for other in parts) == 1
    if (alone and not unnamed) or len(parts) == 1 or len({record.settings_hash for record in part}) > 1:
        return first.variant or first.algorithm
    name = _name(part)
    namesakes = [other for other in parts if _name(other) == name]
    compared = parts if len(namesakes) == 1 else namesakes
    common = set.intersection(*(set(_typed(other[0])) for other in compared))
    own = ", ".join(text for text in _typed(first) if text not in common)
    return f"{name}: {own}" if own else first.variant or first.algorithm


def _name(part: Sequence[Record]) -> str:
    """The name without keys: of a variant, or of the algorithm."""
    first = part[0]
    return first.algorithm if first.variant in ("", changed(first.algorithm)) else first.variant


def _typed(record: Record) -> list[str]:
    """The overrides of a run's command, except the seed."""
    return [word for word in record.words if "=" in word and not word.startswith("seed=")]


def _revision(record: Record) -> str:
    return f"revision {record.git_revision[:7] or '-'}"


def _settings_hash(record: Record) -> str:
    return f"settings {record.settings_hash}"
