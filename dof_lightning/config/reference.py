"""The page `docs/reference/configuration.md`, made from the yaml files of `conf/` and the comments in them.

python -m dof_lightning.config.reference  # writes it; `make docs` begins with this
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from dof_lightning.config import catalog

_INTRODUCTION = """# Configuration

<!-- Made by `python -m dof_lightning.config.reference` from the yaml files of conf/: change those. -->

A group picks one of the files in `conf/<group>/`, as `algorithm=dof_cloning`; a key sets one value, as
`algorithm.learning_rate=1e-3`. What is typed wins over everything. `python train.py experiment=<name> --cfg job` prints
the whole configuration, and `python train.py experiment=<name> algorithm=?` the options of a group.

* `experiment` is required; every dataset is one, with the world that it was collected in.
* Which values suit which algorithm on which dataset is in `conf/hyperparams/`: every section whose algorithms and
  datasets match is merged, and the start screen names the section that each value comes from.
* In the tables of keys *all* means every option of the group with a file. A value such as `${seed}` is read from the
  key that it names. An option may set another value than the one that is listed: its own file has the last word."""
_WITHOUT_KEYS = ("debug", "experiment", "study")  # presets and lists of other groups' keys
PAGE = catalog.CONF_DIR.parent / "docs" / "reference" / "configuration.md"


@dataclass(frozen=True)
class _Key:
    """A commented key of a yaml file."""

    name: str
    value: str
    comment: str


def render() -> str:
    """The page, in Markdown."""
    train = catalog.CONF_DIR / "train.yaml"
    parts = [_INTRODUCTION, "\n## Top level\n", *_key_table([(key, "all") for key in _keys(train)], "")]
    chosen = _groups_of(train)
    parts.extend(line for group in ["experiment", *chosen] for line in _group(group, *chosen.get(group, ("", ""))))
    parts.append(
        "\n## suite\n\nA queue of runs, of `dof bench suite=<name>` only ([Benchmarks](../guide/benchmarking.md)).\n"
    )
    parts.extend(_option_table("suite", sorted(path.stem for path in (catalog.CONF_DIR / "suite").glob("*.yaml"))))
    return "\n".join(parts).rstrip() + "\n"


def _groups_of(train: Path) -> dict[str, tuple[str, str]]:
    """Reads the default option and the comment of each group, in the order of the defaults list."""
    lines = re.findall(r"^  - (\w+): (\S+)  # (.*)$", train.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {group: (option, comment) for group, option, comment in lines if group != "experiment"}


def _group(group: str, default: str, comment: str) -> Iterator[str]:
    yield f"\n## {group}\n"
    if comment:
        yield f"Default: `{default}` ({comment}).\n"
    yield from _option_table(group, _with_a_file(group))
    if made := _families(group):
        yield "\nOptions that need no file, one for each combination of words:\n"
        yield from _table(("option", "words", "what it is"), made)
    files = sorted((catalog.CONF_DIR / group).glob("*.yaml"))
    users = {file.stem: _users(group, file.stem) for file in files}
    keys = [(key, ", ".join(users[file.stem])) for file in files if users[file.stem] for key in _keys(file)]
    if keys and group not in _WITHOUT_KEYS:
        yield ""
        yield from _key_table(keys, f"{group}.")


def _with_a_file(group: str) -> list[str]:
    return sorted(path.stem for path in (catalog.CONF_DIR / group).glob("*.yaml") if not path.stem.startswith("_"))


def _users(group: str, file: str) -> list[str]:
    """The options that a file's keys belong to: the file's own option, or those that build on a shared base."""
    if not file.startswith("_"):
        return [f"`{file}`"]
    using = [option for option in _with_a_file(group) if file in _bases(group, option)]
    return ["all"] if using == _with_a_file(group) else [f"`{option}`" for option in using]


@cache
def _bases(group: str, option: str) -> set[str]:
    path = catalog.CONF_DIR / group / f"{option}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    direct = {entry for entry in content.get("defaults", []) if isinstance(entry, str) and entry.startswith("_")}
    return direct.union(*(_bases(group, base) for base in direct - {"_self_"})) - {"_self_"}


def _families(group: str) -> list[tuple[str, str, str]]:
    """The options that `conf/families.yaml` makes: pattern, words, comment."""
    text = (catalog.CONF_DIR / "families.yaml").read_text(encoding="utf-8")
    comment, found = "", []
    for block in re.split(r"^(?=- group:)", text, flags=re.MULTILINE):
        if block.startswith("- group:"):
            family = yaml.safe_load(block.replace("*battles", "null"))[0]
            words = "; ".join(f"{name}: {', '.join(values)}" for name, values in family["words"].items())
            if family["group"] == group:
                found.append((f"`{family['option']}`", words, comment))
        trailing = re.search(r"((?:^#.*\n)+)\Z", block, flags=re.MULTILINE)
        comment = " ".join(line.removeprefix("# ") for line in trailing[1].splitlines()) if trailing else comment
    return found


def _option_table(group: str, options: Iterable[str]) -> Iterator[str]:
    yield from _table(("option", "what it is"), [(f"`{option}`", _summary(group, option)) for option in options])


def _summary(group: str, option: str) -> str:
    """The comment that a file begins with, else the one behind its class, else all."""
    path = catalog.CONF_DIR / group / f"{option}.yaml"
    text = path.read_text(encoding="utf-8").removeprefix("# @package _global_\n")
    if opening := re.match(r"((?:#.*\n)+)", text):
        return " ".join(line.removeprefix("# ") for line in opening[1].splitlines())
    if group == "data":
        behaviour = re.search(r"^    _target_: \S+  # (.*)$", text, flags=re.MULTILINE)
        return f"collected in `{catalog.environment_of(option)}`" + (f": {behaviour[1]}" if behaviour else "")
    of_class = re.search(r"^_target_: \S+  # (.*)$", text, flags=re.MULTILINE)
    return of_class[1] if of_class else "; ".join(re.findall(r"  # (.*)$", text, flags=re.MULTILINE))


def _keys(path: Path) -> list[_Key]:
    text = path.read_text(encoding="utf-8")
    node = yaml.compose(text)
    return list(_commented(node, "", text.splitlines())) if isinstance(node, yaml.MappingNode) else []


def _commented(mapping: yaml.MappingNode, prefix: str, lines: list[str]) -> Iterator[_Key]:
    for key, value in mapping.value:
        if key.value in ("defaults", "_partial_", "hydra"):
            continue
        line = value.end_mark.line if isinstance(value, yaml.ScalarNode) else key.start_mark.line
        comment = re.search(r"  # (.*)$", lines[line])
        if isinstance(value, yaml.MappingNode):
            yield from _commented(value, f"{prefix}{key.value}.", lines)
        elif comment and (key.value != "_target_" or prefix):
            written = lines[line][key.end_mark.column + 1 : comment.start()].strip()
            if key.value == "_target_":
                yield _Key(prefix.rstrip("."), written.rpartition(".")[2], comment[1])
            else:
                yield _Key(f"{prefix}{key.value}", written, comment[1])


def _key_table(keys: Iterable[tuple[_Key, str]], prefix: str) -> Iterator[str]:
    """Makes one row of all keys with the same name, value and comment."""
    rows: dict[_Key, list[str]] = {}
    for key, users in keys:
        rows.setdefault(key, []).append(users)
    cells = [
        (f"`{prefix}{key.name}`", f"`{key.value}`" if key.value else "", key.comment, ", ".join(users))
        for key, users in rows.items()
    ]
    if len({users for *_, users in cells}) == 1:
        yield from _table(("key", "default", "meaning"), [cell[:3] for cell in cells])
    else:
        yield from _table(("key", "default", "meaning", "options"), cells)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(map(_cell, row))} |"


def _cell(text: str) -> str:
    """Escapes text for a Markdown table, so that it ends no column and begins no tag outside code."""
    return re.sub(r"(`[^`]*`)|<", lambda match: match[1] or "&lt;", text.replace("|", "\\|"))


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
