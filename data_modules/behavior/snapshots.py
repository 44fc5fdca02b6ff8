"""Behaviour actors on disk: a few snapshots of one online training, as float16 safetensors with their history.

data_modules/behavior/weights/mpe_spread.safetensors
    tensors    <snapshot>/<parameter>     float16, snapshots named ladder_0 ... ladder_n, medium, expert; or, in
                                          mpe_spread_experts.safetensors, expert_<seed> and expert_<seed>_swapped
    metadata   "story": JSON: command, seed, environment, and a snapshot's updates and measured returns
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from data_modules.behavior.actor_bank import ActorBank
from dof_lightning.errors import UserError
from dof_lightning.spec import EnvSpec

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of `dof data train-behavior` for every kind of training.

    Attributes:
        seed: seed of everything random.
        output: safetensors file to write; None means the file that ships with the package.
        overwrite: whether to replace that file if it exists. The shipped files' hashes are part of the fingerprint of
            every dataset collected with them.
        updates: number of updates of the team whose snapshots are written.
        evaluation_episodes: number of episodes that measure a snapshot.
    """

    seed: int = 1
    output: str | None = None
    overwrite: bool = False
    updates: int
    evaluation_episodes: int

    def story(self, command: str, environment: EnvSpec, settings: Any, **more: Any) -> dict[str, Any]:
        """The record of how the snapshots were made; `settings` is the learner's dataclass."""
        return {
            "command": command,
            "environment": environment.name,
            "environment_fingerprint": environment.fingerprint,
            "settings": asdict(settings),
            "evaluation_episodes": self.evaluation_episodes,
            "torch": torch.__version__,
            **more,
        }

    def destination(self, shipped: str) -> Path:
        """Returns the file to write; called before training, so that a file that cannot be written loses nothing.

        Raises:
            UserError: the file exists or cannot be written.
        """
        return self.may_be_written(WEIGHTS / f"{shipped}.safetensors" if self.output is None else Path(self.output))

    def may_be_written(self, path: Path) -> Path:
        """Returns the path if a file may be written there.

        Raises:
            UserError: the file exists or cannot be written.
        """
        if path.exists() and not self.overwrite:
            raise UserError(f"{path} exists; name another file with output=, or replace it with overwrite=true")
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise UserError(f"output={path}: {path.parent} is no folder that can be written to; choose another")
        return path


@dataclass(frozen=True)
class Snapshot:
    """The actors at one moment of the online training.

    Attributes:
        updates: critic updates done.
        return_mean, return_std: episode returns of the greedy actors (mean over agents).
        weights: the actors' state dict.
    """

    updates: int
    return_mean: float
    return_std: float
    weights: Mapping[str, Tensor]

    def measured(self) -> dict[str, float]:
        """Everything but the weights."""
        return {name: value for name, value in vars(self).items() if name != "weights"}


@dataclass(frozen=True)
class SnapshotChoice:
    """The choice of snapshots for each behaviour.

    Attributes:
        medium_return: the medium policy's greedy return should be near this.
        expert_return: the expert's greedy return should be near this.
        ladder_start: return of the ladder's first snapshot.
        tolerance: largest difference from the wanted return; beyond it there is a warning.
        ladder_size: number of snapshots on the way to medium, evenly spaced in return.
        ladder_end: return of the ladder's last snapshot; None means one step short of medium.
    """

    medium_return: float
    expert_return: float
    ladder_start: float
    tolerance: float = 25.0
    ladder_size: int = 7
    ladder_end: float | None = None

    def choose(self, history: Sequence[Snapshot]) -> dict[str, Snapshot]:
        """Names the shipped snapshots: `ladder_0` ..., `medium` and `expert`.

        Medium and expert are those nearest to the wanted returns; the ladder comes before medium.
        """
        expert = self.expert(history)
        medium = min(history, key=lambda snapshot: abs(snapshot.return_mean - self.medium_return))
        before = [snapshot for snapshot in history if snapshot.updates < medium.updates]
        if self.ladder_end is not None:
            levels = torch.linspace(self.ladder_start, self.ladder_end, self.ladder_size).tolist()
        else:
            levels = torch.linspace(self.ladder_start, medium.return_mean, self.ladder_size + 1)[:-1].tolist()
        rungs = {min(before, key=lambda s: abs(s.return_mean - level)).updates for level in levels if before}
        ladder = [snapshot for snapshot in before if snapshot.updates in rungs]
        return {f"ladder_{rung}": snapshot for rung, snapshot in enumerate(ladder)} | {
            "medium": medium,
            "expert": expert,
        }

    def expert(self, history: Sequence[Snapshot]) -> Snapshot:
        """Returns the snapshot whose return is nearest to `expert_return`."""
        return min(history, key=lambda snapshot: abs(snapshot.return_mean - self.expert_return))

    def complaints(self, chosen: Mapping[str, Snapshot]) -> list[str]:
        """Warnings about snapshots that are not as good, or as bad, as their names promise; one sentence each."""
        wanted = {"medium": self.medium_return, "expert": self.expert_return}
        judged = {name: wanted[kind] for name in chosen if (kind := name.partition("_")[0]) in wanted}
        return [
            f"{name} returns {chosen[name].return_mean:.1f}, the target is {value:.1f}"
            for name, value in judged.items()
            if abs(chosen[name].return_mean - value) > self.tolerance
        ]


def save_snapshots(path: Path, snapshots: Mapping[str, Snapshot], story: Mapping[str, Any]) -> None:
    """Writes snapshots as float16 with the story of how they were made."""
    tensors = {
        f"{name}/{key}": value.detach().to(torch.float16).contiguous()
        for name, snapshot in snapshots.items()
        for key, value in snapshot.weights.items()
    }
    record = {**story, "snapshots": {name: snapshot.measured() for name, snapshot in snapshots.items()}}
    save_file(tensors, path, metadata={"story": json.dumps(record, sort_keys=True)})


def snapshot_names(environment: str) -> list[str]:
    """The snapshots shipped for an environment, in the order of their training."""
    story = read_story(environment)
    return sorted(story["snapshots"], key=lambda name: story["snapshots"][name]["updates"])


def read_story(environment: str) -> dict[str, Any]:
    """Reads how an environment's snapshots were made: command, seed, measured returns.

    Raises:
        UserError: there are no behaviour policies for this environment.
    """
    with _open(environment) as file:
        story: dict[str, Any] = json.loads(file.metadata()["story"])
    return story


def weights_sha256(environment: str) -> str:
    """The sha256 of an environment's behaviour weights."""
    return hashlib.sha256(_path(environment).read_bytes()).hexdigest()


def load_weights(environment: str, snapshot: str) -> dict[str, Tensor]:
    """The state dict of one snapshot, float32."""
    prefix = f"{snapshot}/"
    with _open(environment) as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - no mapping
        return {name.removeprefix(prefix): file.get_tensor(name).float() for name in names}


def experts_of(environment: str) -> str:
    """The file name, without suffix, of the shipped teams of an environment that were trained from different seeds."""
    return f"{environment}_experts"


def load_actors(spec: EnvSpec, snapshot: str, shipped: str | None = None) -> ActorBank:
    """The actors of one snapshot, e.g. `expert`, in evaluation mode.

    Args:
        spec: the environment's spec.
        snapshot: the snapshot's name.
        shipped: name of the shipped file; None means the environment's name.
    """
    weights = load_weights(shipped or spec.name, snapshot)
    hidden = weights["network.layers.0.weight"].shape[-1]
    actors = ActorBank(spec.n_agents, spec.observation_dim, spec.action_dim, hidden)
    actors.load_state_dict(weights)
    return actors.eval().requires_grad_(False)


def _path(environment: str) -> Path:
    return WEIGHTS / f"{environment}.safetensors"


def _open(environment: str) -> Any:
    path = _path(environment)
    if not path.exists():
        shipped = ", ".join(sorted(file.stem for file in WEIGHTS.glob("*.safetensors"))) or "none"
        raise UserError(
            f"no behaviour policies for {environment!r} (shipped: {shipped}); "
            "train some; `dof data train-behavior --help` shows how"
        )
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise UserError(
            f"{path} is not a readable safetensors file ({error}); restore it from the repository"
        ) from None
