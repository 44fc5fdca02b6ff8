"""The options of every group in `conf/`: those with a file, and those that are made from their name.

Options that need no file:

* `experiment=<dataset>`: the dataset with the environment it was collected in.
* `env=smax_<map>` and the other families of `conf/families.yaml`, among them the datasets of SMAX and SMAC.
* `data=<folder>`, your own dataset below the usual root.
* `tuned=<algorithm>_<dataset>`, which `conf/train.yaml` asks for: the values of `conf/hyperparams/`.
"""

import itertools
import json
import re
import sys
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dof_lightning.config.command_line import config_dirs
from dof_lightning.config.plugins import plugins
from dof_lightning.errors import UserError

if TYPE_CHECKING:
    from data_modules.tools.inspect import KnownDataset

_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = _PACKAGE / "_installed"  # a wheel's copy of the folders beside the package in a clone (setup.py)
CONF_DIR = (_INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent) / "conf"
_NO_GROUPS = ("hyperparams", "suite")  # folders that Hydra never reads


def groups() -> list[str]:
    """The groups that can be typed, in alphabetical order."""
    return sorted(path.name for path in CONF_DIR.iterdir() if path.is_dir() and path.name not in _NO_GROUPS)


def file_of(group: str, option: str) -> Path | None:
    """The file of an option, ours before others; None if there is none."""
    paths = (folder / group / f"{option}.yaml" for folder in _folders())
    return next((path for path in paths if path.is_file()), None)


def _folders() -> list[Path]:
    """The folders of options: ours, those of plug-ins, and what `--config-dir` names."""
    return [CONF_DIR, *plugins().values(), *config_dirs(sys.argv[1:])]


def options(group: str) -> list[str]:
    """The options of a group in alphabetical order; names that start with an underscore are shared bases."""
    datasets = options("data") if group == "experiment" else ()
    return sorted({*_files(group), *_family_members().get(group, {}), *datasets})


def content_of(group: str, option: str) -> dict[str, Any] | None:
    """The content of an option that is made from its name; None for an option with a file, and for an unknown one."""
    if group == "tuned":
        return _tuned(option)
    if group == "experiment" and option in options("data"):
        return _experiment(option)
    found = _family_members().get(group, {}).get(option)
    return _own_dataset(option) if found is None and group == "data" else found


def _own_dataset(option: str) -> dict[str, Any] | None:
    """`data=mine` beside experiment=none: the dataset in that folder of the usual root; None if there is none."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", option):
        return None
    folder = Path(data_root()) / option
    return {"defaults": ["_own", "_self_"], "path": str(folder)} if (folder / "dataset.json").is_file() else None


def check_no_tilde(key: str, text: object) -> None:
    """Refuses a folder below `~` that no shell has replaced by the home folder; a folder of that name would be made.

    Raises:
        UserError: names the key.
    """
    if str(text) == "~" or str(text).startswith("~/"):
        raise UserError(f"{key}={text}: the shell puts no folder in the place of this ~; type $HOME{str(text)[1:]}")


def data_root() -> str:
    """The default folder of all datasets."""
    from omegaconf import OmegaConf

    return str(OmegaConf.load(CONF_DIR / "data" / "_served.yaml").root)


def known_datasets() -> list["KnownDataset"]:
    """The datasets of all options of group data, in alphabetical order; nothing is composed."""
    from data_modules.tools.inspect import KnownDataset

    return [KnownDataset(_name(option), environment_of(option) or "-", _command(option)) for option in options("data")]


def name_of(path: str | Path) -> str | None:
    """The name in a dataset's manifest; None if no manifest can be read."""
    from data_modules.storage.manifest import read_manifest

    try:
        return read_manifest(path).spec.name
    except UserError:
        return None


def environment_of(data: str) -> str | None:
    """The option of group env in which a dataset was collected; None if its file does not specify it."""
    for entry in _data_content(data).get("defaults", []):
        if isinstance(entry, Mapping) and "/env@source.environment" in entry:
            return str(entry["/env@source.environment"])
        if isinstance(entry, str) and entry != "_self_" and (found := environment_of(entry)) is not None:
            return found
    return None


def _name(data: str) -> str:
    return str(_data_content(data).get("name", data))


def _command(data: str) -> str:
    """The command that makes or imports the dataset."""
    if not any(base.startswith("_imported") for base in _bases(data)):
        return f"dof data build experiment={data}"
    return f"dof data import format=vault source=<vault> env={environment_of(data)} name={_name(data)}"


def _experiment(data: str) -> dict[str, Any]:
    """A dataset with its environment, and the values of `conf/experiment/<its base>.yaml` for datasets of its kind."""
    bases = [base for base in _bases(data) if file_of("experiment", base) is not None]
    chosen: list[Any] = [*bases, {"override /data": data}]
    if (environment := environment_of(data)) is not None:
        chosen.append({"override /env": environment})
    return {"defaults": chosen}


def _tuned(option: str) -> dict[str, Any] | None:
    """The values of all sections for an algorithm on a dataset, later ones over earlier ones; None without sections."""
    matching = [section["values"] for section in sections_of(option)]
    return reduce(_merge, matching) if matching else None


def sections_of(option: str) -> list[dict[str, Any]]:
    """The sections of an option of group tuned, `<algorithm>_<data>`."""
    for algorithm in _files("algorithm"):
        data = option.removeprefix(f"{algorithm}_")
        if data != option and (found := sections_for(algorithm, data)):
            return found
    return []


def sections_for(algorithm: str, data: str) -> list[dict[str, Any]]:
    """The sections for an algorithm on a dataset; later ones override earlier ones."""
    suited = [section for section in sections() if algorithm in section["algorithms"]]
    return [section for section in suited if any(fnmatchcase(data, pattern) for pattern in section["datasets"])]


@cache
def sections() -> tuple[dict[str, Any], ...]:
    """All sections of `conf/hyperparams/`, files in alphabetical order and each from top to bottom."""
    files = sorted((CONF_DIR / "hyperparams").glob("*.yaml"))
    return tuple(section for file in files for section in _sections_in(file))


def _sections_in(file: Path) -> list[dict[str, Any]]:
    """The sections of a file, with the place `where` each begins: `conf/hyperparams/<name>.yaml:<line>`."""
    loader = yaml.SafeLoader(file.read_text(encoding="utf-8"))
    written: Any = loader.get_single_node()
    places = [f"conf/hyperparams/{file.name}:{node.start_mark.line + 1}" for node in written.value]
    contents = loader.construct_document(written)
    return [{**section, "where": where} for section, where in zip(contents, places, strict=True)]


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _bases(data: str) -> list[str]:
    entries = _data_content(data).get("defaults", [])
    return [entry for entry in entries if isinstance(entry, str) and entry != "_self_"]


@cache
def _data_content(option: str) -> dict[str, Any]:
    member = _family_members().get("data", {}).get(option)
    path = file_of("data", option)
    if member is not None or path is None:  # a base of another group, or with a package
        return member or {}
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return found


@cache
def _files(group: str) -> tuple[str, ...]:
    paths = (path for folder in _folders() for path in (folder / group).glob("*.yaml"))
    return tuple(dict.fromkeys(path.stem for path in paths if not path.stem.startswith("_")))


@cache
def _family_members() -> dict[str, dict[str, dict[str, Any]]]:
    """The entries of `conf/families.yaml`, by group and option."""
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
