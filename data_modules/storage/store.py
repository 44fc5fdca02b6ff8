"""Building a dataset's folder: all or nothing, and by one process at a time."""

import errno
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_modules.storage.action_units import OURS, ActionUnits
from data_modules.storage.arrays import DataFault, EpisodeRows
from data_modules.storage.card import write_card
from data_modules.storage.checking import Block, checked
from data_modules.storage.contents import KEY as CONTENTS
from data_modules.storage.contents import Contents, contents_of, has_source_digest
from data_modules.storage.dataset_statistics import StatisticsAccumulator
from data_modules.storage.disk_order import permute
from data_modules.storage.document import check_description
from data_modules.storage.journal import Journal
from data_modules.storage.manifest import DatasetManifest, read_manifest, write_manifest
from data_modules.storage.shards import write_shards
from dof_lightning.errors import UserError
from dof_lightning.files import building, locked
from dof_lightning.spec import DatasetSpec, EnvSpec, fingerprint

SAMPLE_BYTES = 1 << 22
MOST_EPISODES = 256
MOST_OBSERVED = 10_000  # numbers per agent; a thousand quantiles of each are kept, which takes minutes for pictures

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Description:
    """The description of a dataset, without its episodes.

    Attributes:
        name: a name for people.
        environment: the world the episodes come from.
        recipe: identifies the data; its fingerprint is the dataset's.
        behavior: the behaviour policy (name, hash of weights, noise), read after the episodes, whose collection may
            complete it (win rate); the returns of all episodes are added.
        discount: gamma of discounted returns.
        made_by_recipe: whether the recipe alone determines the episodes, as it does if our behaviours act by a seed.
            Otherwise a digest of the episodes becomes part of the recipe (`contents`).
        action_range: the lowest and highest continuous actions in the blocks' own units, numbers or arrays that
            broadcast to `[N, A]`, which become -1 and 1; part of the recipe. None means that they are in [-1, 1].
    """

    name: str
    environment: EnvSpec
    recipe: Mapping[str, Any]
    behavior: Mapping[str, Any]
    discount: float = 0.99
    made_by_recipe: bool = False
    action_range: tuple[Any, Any] | None = None

    def full_recipe(self) -> dict[str, Any]:
        """The recipe with the units of actions, which change the data's meaning, and without contents.

        Raises:
            UserError: the range is invalid, or actions are discrete.
        """
        recipe = {key: value for key, value in self.recipe.items() if key != CONTENTS or self.made_by_recipe}
        if self.action_range is None:
            return recipe
        if self.environment.action_kind == "discrete":
            raise UserError(f"action_range={self.action_range}: the actions are discrete and have no range")
        return {**recipe, "action_range": self.units().describe(self.environment.agents)}

    def units(self) -> ActionUnits:
        """The units of the actions.

        Raises:
            UserError: the range is invalid.
        """
        return OURS if self.action_range is None else ActionUnits.of(*self.action_range)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The layout of episodes in files.

    Attributes:
        episodes_per_sample: episodes in one WebDataset sample; None means 256, or fewer if they are large.
        samples_per_shard: samples in one tar.
        buffer_bytes: memory for episodes while they are written; does not change any byte of the files.
    """

    episodes_per_sample: int | None = None
    samples_per_shard: int = 16
    buffer_bytes: int = 48 << 20


USUAL_LAYOUT = Layout()


def write_dataset(
    path: Path,
    description: Description,
    *,
    blocks: Iterable[Block] | Callable[[int], Iterable[Block]],
    n_episodes: int,
    seed: int,
    layout: Layout = USUAL_LAYOUT,
) -> DatasetManifest:
    """Builds a dataset, or verifies an existing one.

    Everything is written into a hidden sibling folder, synced, and renamed at the end, so an existing folder is
    complete. A file lock makes a second builder wait and then use the first one's result; `blocks` is not read
    until the lock is held, so a lazy collector does nothing twice. The same arguments give the same bytes.

    If the folder exists, episodes that a recipe determines are not made again, and files whose digest is in the recipe
    (`imported`) are not read again; all other episodes are read and compared with the stored ones.

    Episodes are permuted by a hash of (seed, id). Memory does not grow with the dataset (see `permute`). If the
    dataset is larger than the buffer, free disk space of the episodes' size is needed temporarily.

    Args:
        path: the dataset's folder.
        description: the dataset's description.
        blocks: the episodes, whose ids are all different, padded or end to end; or a function that is called with n and
            returns them without the first n. Then a killed writing resumes where it was, which takes the episodes' size
            on disk once more until it is done; it starts anew if the recipe cannot guarantee that the episodes are
            still the same.
        n_episodes: number of episodes in all blocks together.
        seed: seed of the permutation.
        layout: the layout of the files.

    Raises:
        UserError: the description contradicts itself, the folder contains another dataset or other episodes or is
            damaged, the disk is full, or agents observe more than `MOST_OBSERVED` numbers.
        DataFault: the blocks contradict the environment's spec, each other or `n_episodes`; actions are outside their
            range; two episodes have the same id.
    """
    path, environment, recipe = Path(path), description.environment, description.full_recipe()
    _check_size(environment)
    if n_episodes < 1:
        raise DataFault(f"n_episodes={n_episodes}: a dataset has at least one episode")
    check_description(description.name, environment, description.discount, recipe, description.behavior)
    identified = description.made_by_recipe or has_source_digest(recipe)  # other episodes would have another recipe
    with _lock(path):
        if path.exists():
            manifest = _accept(path, recipe)
            if not identified:
                _check_contents(manifest, description, blocks)
            if callable(blocks):
                shutil.rmtree(_unsorted(path), ignore_errors=True)  # of a process that was killed after the rename
            return manifest
        with _draft(path) as draft:
            statistics = StatisticsAccumulator(environment, description.discount, n_episodes)
            contents = None if description.made_by_recipe else Contents(environment, description.discount)
            size = layout.episodes_per_sample or fitting_sample(environment)
            if callable(blocks) and not identified:  # waiting episodes may differ from those of the source now
                shutil.rmtree(_unsorted(path), ignore_errors=True)
                blocks = blocks(0)
            journal, remaining = _remaining(blocks, path, recipe, (seed, n_episodes, layout.buffer_bytes))
            fitting, scratch = checked(remaining, environment, description.units()), draft / ".unsorted"
            most = episode_bytes(environment)
            groups = permute(fitting, seed, n_episodes, size, layout.buffer_bytes, scratch, journal, most)
            samples = _samples(groups, statistics, contents)
            members, shards = write_shards(draft, samples, environment, layout.samples_per_shard)
            if (found := sum(shard.n_episodes for shard in shards)) != n_episodes:
                raise DataFault(f"the blocks contain {found} episodes instead of {n_episodes}")
            if contents is not None:
                recipe[CONTENTS] = contents.finish()
            mean, std = statistics.returns.mean_and_std()
            manifest = DatasetManifest(
                location=str(path),
                spec=DatasetSpec(description.name, environment, description.discount, recipe, statistics.finish()),
                behavior={**description.behavior, "return_mean": mean, "return_std": std},
                members=members,
                shards=shards,
                longest=statistics.longest,
                n_terminated=statistics.n_terminated,
                return_knots=statistics.returns.knots(),
            )
            write_manifest(draft, manifest)
            write_card(draft, manifest)
        if journal is not None:
            journal.remove()
    return read_manifest(path)


def _remaining(
    blocks: Iterable[Block] | Callable[[int], Iterable[Block]],
    path: Path,
    recipe: Mapping[str, Any],
    dealing: tuple[int, ...],
) -> tuple[Journal | None, Iterable[Block]]:
    """Returns the blocks that are still to be read, and the journal of those that were."""
    if not callable(blocks):
        return None, blocks
    journal = Journal(_unsorted(path), fingerprint({**recipe, "dealing": list(dealing)}))
    return journal, blocks(0 if journal.dealt is None else journal.dealt.episodes)


def _unsorted(path: Path) -> Path:
    """The folder of episodes that a resumable writing has read but not yet stored."""
    return path.with_name(f".{path.name}.unsorted")


def fitting_sample(environment: EnvSpec) -> int:
    """The number of longest possible episodes that take `SAMPLE_BYTES`; between 1 and 256.

    This keeps every shard small enough to be streamed within a small `data.memory_mb`.
    """
    return max(1, min(MOST_EPISODES, SAMPLE_BYTES // episode_bytes(environment)))


def episode_bytes(environment: EnvSpec) -> int:
    """The approximate size of the longest episode that the environment allows."""
    n, steps = environment.n_agents, environment.horizon
    row = n * environment.observation_dim + environment.state_dim
    step = n * (1 + environment.action_dim)
    return 4 * (row * (steps + 1) + step * steps)


def _check_size(environment: EnvSpec) -> None:
    if (observed := environment.observation_dim) > MOST_OBSERVED:
        raise UserError(
            f"{environment.name}: an agent observes {observed:,} numbers, {episode_bytes(environment) / 1e6:,.0f} MB "
            f"per episode; datasets contain at most {MOST_OBSERVED:,} per agent: let the environment observe "
            "features, not pictures"
        )


def _accept(path: Path, recipe: Mapping[str, Any]) -> DatasetManifest:
    manifest = read_manifest(path)
    stored = dict(manifest.spec.recipe)
    if CONTENTS not in recipe:
        stored.pop(CONTENTS, None)
    if fingerprint(stored) != (wanted := fingerprint(recipe)):
        raise UserError(
            f"{path} contains another dataset (fingerprint {manifest.spec.fingerprint}, wanted {wanted}); "
            "choose another name or data.root=, or delete that folder"
        )
    return manifest


def _check_contents(
    manifest: DatasetManifest, description: Description, blocks: Iterable[Block] | Callable[[int], Iterable[Block]]
) -> None:
    """Refuses to keep an existing dataset whose episodes are not those of `blocks`."""
    contents = Contents(description.environment, description.discount)
    for rows in checked(blocks(0) if callable(blocks) else blocks, description.environment, description.units()):
        contents.update(rows)
    there = manifest.spec.recipe.get(CONTENTS) or contents_of(manifest)  # earlier versions wrote no digest
    if there != (here := contents.finish()):
        raise UserError(
            f"{manifest.location} contains other episodes than these, with the same recipe (contents {there[:8]} "
            f"there, {here[:8]} here); delete that folder to replace them, or write to another"
        )


def _samples(
    groups: Iterable[EpisodeRows], statistics: StatisticsAccumulator, contents: Contents | None
) -> Iterator[EpisodeRows]:
    """Yields the groups, and adds each to statistics and contents as it passes."""
    for sample in groups:
        statistics.update(sample)
        if contents is not None:
            contents.update(sample)
        yield sample


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    file = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another data.root") from error
    with locked(file, on_wait=lambda: _log.warning("another process is building %s: waiting for it", path)):
        yield


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """A hidden folder that takes the place of `path` if all goes well, and vanishes if not."""
    try:
        with building(path) as draft:
            yield draft
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{path}: the disk is full; free some space or choose another data.root") from error
        raise
