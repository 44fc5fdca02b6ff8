"""`dof data import`: another format's episodes as one of our datasets."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from data_modules.convert import action_range
from data_modules.convert.base import EpisodeSource, check_layout
from data_modules.convert.import_madiff import MadiffSource
from data_modules.convert.import_minari import MinariSource
from data_modules.convert.import_npz import NpzSource
from data_modules.convert.import_omar import EPISODE_LENGTH, OmarSource
from data_modules.convert.import_vault import VaultSource
from data_modules.storage.action_units import OURS
from data_modules.storage.arrays import EpisodeRows
from data_modules.storage.manifest import FORMAT_VERSION
from data_modules.storage.store import Description, write_dataset
from data_modules.tools.verify import verify_dataset
from dof_lightning.agent_names import check_agent_names
from dof_lightning.errors import UserError
from dof_lightning.spec import EnvSpec

# These formats have no options of their own.
_SOURCES: Mapping[str, Callable[[Path, EnvSpec | None], EpisodeSource]] = {
    "vault": VaultSource,
    "madiff": MadiffSource,
    "minari": MinariSource,
    "npz": NpzSource,
}
FORMATS = ("omar", *_SOURCES)
OPTIONS: Mapping[str, tuple[str, ...]] = {
    name: (action_range.OPTION, *(("horizon", "learned") if name == "omar" else ())) for name in FORMATS
}


def open_source(format_: str, path: Path, environment: EnvSpec | None, options: Mapping[str, Any]) -> EpisodeSource:
    """Opens a source of a format; arguments as in `import_dataset`.

    Raises:
        UserError: the format or an option is unknown, or the source does not have the format's layout.
    """
    if format_ not in FORMATS:
        raise UserError(f"format={format_} is unknown; choose one of {', '.join(FORMATS)}")
    known = OPTIONS[format_]
    for key in options:
        if key not in known:
            raise UserError(f"{key}= is no option of format={format_}; its options are {', '.join(known) or 'none'}")
    if not path.exists():
        raise UserError(f"source={path} does not exist; correct the path")
    if format_ != "omar":
        return _SOURCES[format_](path, environment)
    if environment is not None and "learned" in options:
        raise UserError("learned= and env= both specify the learned agents; leave learned= out")
    learned = options.get("learned") if environment is None else environment.n_agents
    return OmarSource(path, learned, int(options.get("horizon", EPISODE_LENGTH)))


def import_dataset(
    format_: str,
    path: Path,
    name: str,
    root: Path,
    environment: EnvSpec | None = None,
    options: Mapping[str, Any] | None = None,
    discount: float = 0.99,
    seed: int = 0,
) -> Path:
    """Writes a source's episodes as the folder `root/name`, in bounded memory; a killed import resumes.

    Args:
        format_: one of `FORMATS`.
        path: the source's file or folder.
        name: name of the dataset, and of its folder.
        root: folder of all datasets.
        environment: the environment of the episodes; None accepts any.
        options: the format's options.
        discount: gamma of the returns that are stored.
        seed: seed of the order in which episodes are stored.

    Raises:
        UserError: data and environment do not fit, a file contains an invalid value (named with its index), or the
            folder holds another dataset.
    """
    options = options or {}
    source = open_source(format_, path, environment, options)
    if environment is not None:
        check_layout(source.layout, environment, source.location)
    source.units = action_range.choose_units(source, environment, options.get(action_range.OPTION))
    spec = source.layout.to_spec(name, source.units) if environment is None else environment
    check_agent_names(str(source.location), [agent.name for agent in spec.agents])
    if source.layout.state_dim == 0:
        spec = replace(spec, state_dim=0)  # the spec must not promise a state that the data lack
    identity = source.identity()
    if not source.units.equals(source.declared or OURS):
        identity["actions"] = source.units.describe(source.layout.agents)  # which change the data's meaning
    console = Console(stderr=True)
    for note in source.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    with Progress(console=console) as bars:
        bar = bars.add_task(f"importing {name}", total=source.n_episodes)

        def blocks(first: int) -> Iterator[EpisodeRows]:
            bars.update(bar, completed=first)
            for rows in source.blocks(first):
                count = rows.n_episodes
                yield rows
                del rows
                bars.advance(bar, count)

        try:
            write_dataset(
                root / name,
                Description(
                    name=name,
                    environment=spec,
                    recipe={
                        "format_version": FORMAT_VERSION,
                        "environment": dict(spec.recipe),
                        "imported": identity,
                        "seed": seed,
                        "discount": discount,
                    },
                    behavior={"name": "imported", "format": format_},
                    discount=discount,
                ),
                blocks=blocks,
                n_episodes=source.n_episodes,
                seed=seed,
            )
        except ValueError as error:
            raise UserError(f"{source.location}: {error}") from None
    for warning in verify_dataset(root / name).warnings:
        console.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    return root / name
