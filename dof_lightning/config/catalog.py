"""The options of every group in `conf/`: those with a file, and those that are made from their name.

Four kinds of options need no file:

* `experiment=<dataset>`: the dataset with the environment it was collected in.
* `env=smax_<map>` and the other families of `conf/families.yaml`, among them the datasets of SMAX and SMAC.
* `tuned=<algorithm>_<dataset>`, which `conf/train.yaml` asks for: the values of `conf/hyperparams/`.
"""

import itertools
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dof_lightning.config.hyperparams import Section, in_effect, sections, tuned_values
from dof_lightning.errors import UserError

if TYPE_CHECKING:
    from data_modules.tools.inspect import KnownDataset

CONF_DIR = Path(__file__).resolve().parents[2] / "conf"
_NO_GROUPS = ("hyperparams", "suite")  # folders that Hydra never reads


def groups() -> list[str]:
    """The groups that can be typed, in alphabetical order."""
    return sorted(path.name for path in CONF_DIR.iterdir() if path.is_dir() and path.name not in _NO_GROUPS)


def options(group: str) -> list[str]:
    """The options of a group in alphabetical order; names that start with an underscore are shared bases."""
    datasets = options("data") if group == "experiment" else ()
    return sorted({*_files(group), *_family_members().get(group, {}), *datasets})


def content_of(group: str, option: str) -> dict[str, Any] | None:
    """What an option says that is made from its name; None for one with a file of its own, and for an unknown one."""
    if group == "tuned":
        return _tuned(option)
    if group == "experiment" and option in options("data"):
        return _experiment(option)
    return _family_members().get(group, {}).get(option)


def data_root() -> str:
    """The folder of all datasets where nothing is typed."""
    from omegaconf import OmegaConf

    return str(OmegaConf.load(CONF_DIR / "data" / "_served.yaml").root)


def known_datasets() -> list["KnownDataset"]:
    """One for each option of group data, in alphabetical order; nothing is composed."""
    from data_modules.tools.inspect import KnownDataset

    return [KnownDataset(_name(option), environment_of(option) or "-", _command(option)) for option in options("data")]


def name_of(path: str | Path) -> str | None:
    """What a dataset calls itself; None where there is none that can be read."""
    from data_modules.storage.manifest import read_manifest

    try:
        return read_manifest(path).spec.name
    except UserError:
        return None


def tuned_sections(algorithm: str, data: str) -> list[Section]:
    """The sections of `conf/hyperparams` that are for an algorithm on a dataset, later ones over earlier ones."""
    return [section for section in sections(CONF_DIR / "hyperparams") if section.matches(algorithm, data)]


def origin_of_values(config: Mapping[str, Any]) -> list[str]:
    """Where the values come from that a run was not told: each section of `conf/hyperparams` with what it says.

    Args:
        config: the resolved configuration.
    """
    choices = config["choices"]
    algorithm, data, tuned = (choices.get(group) for group in ("algorithm", "data", "tuned"))
    told = [
        f"{section.file.name}:{section.line} ({', '.join(section.datasets)}): "
        + ", ".join(f"{key}={value}" for key, value in values.items())
        for section, values in in_effect([] if tuned is None else _sections_of(tuned), config)
    ]
    if told:
        return [f"conf/hyperparams/{line}" for line in told]
    if tuned is None and tuned_sections(algorithm, data):
        return [f"presets of conf/algorithm; what is tuned on {data} is not taken (tuned={algorithm}_{data} takes it)"]
    others = [name for name in options("algorithm") if tuned_sections(name, data)]
    beside = f", though it has some for {', '.join(others)}" if others else ""
    return [f"presets of conf/algorithm; conf/hyperparams has none for {algorithm} on this dataset{beside}"]


def environment_of(data: str) -> str | None:
    """The option of group env in which a dataset was collected; None where its file does not say."""
    for entry in _data_content(data).get("defaults", []):
        if isinstance(entry, Mapping) and "/env@source.environment" in entry:
            return str(entry["/env@source.environment"])
        if isinstance(entry, str) and entry != "_self_" and (found := environment_of(entry)) is not None:
            return found
    return None


def _name(data: str) -> str:
    return str(_data_content(data).get("name", data))


def _command(data: str) -> str:
    """Makes the dataset, or brings it in."""
    if not any(base.startswith("_imported") for base in _bases(data)):
        return f"dof data build experiment={data}"
    return f"dof data import format=vault source=<vault> env={environment_of(data)} name={_name(data)}"


def _experiment(data: str) -> dict[str, Any]:
    """A dataset with its environment, and what `conf/experiment/<its base>.yaml` adds for all datasets of its kind."""
    bases = [base for base in _bases(data) if (CONF_DIR / "experiment" / f"{base}.yaml").is_file()]
    chosen: list[Any] = [*bases, {"override /data": data}]
    if (environment := environment_of(data)) is not None:
        chosen.append({"override /env": environment})
    return {"defaults": chosen}


def _tuned(option: str) -> dict[str, Any] | None:
    return tuned_values(_sections_of(option))


def _sections_of(option: str) -> list[Section]:
    """Of an option of group tuned, `<algorithm>_<data>`."""
    for algorithm in _files("algorithm"):
        data = option.removeprefix(f"{algorithm}_")
        if data != option and (found := tuned_sections(algorithm, data)):
            return found
    return []


def _bases(data: str) -> list[str]:
    entries = _data_content(data).get("defaults", [])
    return [entry for entry in entries if isinstance(entry, str) and entry != "_self_"]


@cache
def _data_content(option: str) -> dict[str, Any]:
    member = _family_members().get("data", {}).get(option)
    path = CONF_DIR / "data" / f"{option}.yaml"
    if member is None and not path.is_file():  # a base of another group, or with a package
        return {}
    found: dict[str, Any] = member if member is not None else yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return found


@cache
def _files(group: str) -> tuple[str, ...]:
    return tuple(path.stem for path in (CONF_DIR / group).glob("*.yaml") if not path.stem.startswith("_"))


@cache
def _family_members() -> dict[str, dict[str, dict[str, Any]]]:
    """By group and option, what `conf/families.yaml` says of it."""
    members: dict[str, dict[str, dict[str, Any]]] = {}
    for family in yaml.safe_load((CONF_DIR / "families.yaml").read_text(encoding="utf-8")):
        words = family["words"]
        for values in itertools.product(*words.values()):
            chosen = dict(zip(words, values, strict=True))
            option = _fill(family["option"], chosen)
            members.setdefault(family["group"], {})[option] = json.loads(_fill(json.dumps(family["content"]), chosen))
    return members


def _fill(text: str, words: Mapping[str, str]) -> str:
    """Puts words in place of `<word>`; `<Word>` is the word with a capital."""
    both = {**words, **{name.capitalize(): word.capitalize() for name, word in words.items()}}
    return re.sub(r"<(\w+)>", lambda match: both[match[1]], text)
