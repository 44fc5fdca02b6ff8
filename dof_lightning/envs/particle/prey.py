"""Policies of the prey that the predators of Tag and World chase; recipes of datasets and results name the prey."""

import hashlib
import json
import pickle
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from dof_lightning.envs.particle.scenarios import Scenario
from dof_lightning.errors import UserError
from dof_lightning.spec import ReferenceScores

Layers = Sequence[tuple[Tensor, Tensor]]  # weight [out, in] and bias [out] of each layer

_CHOICES = (
    "choose trained, scripted, still, the path of a prey of `dof data train-behavior` (.safetensors), "
    "or of OMAR's simple_{tag,world}_pretrained_adv_model.pt"
)


class Prey(ABC):
    """One prey in E episodes, which acts on its observations.

    Attributes:
        identity: identifies the prey in the environment's recipe; JSON values only.
        reference: the returns that normalised scores 0 and 100 stand for against this prey; None if not measured.
    """

    identity: dict[str, Any]
    reference: ReferenceScores | None = None

    @abstractmethod
    def act(self, observations: Tensor) -> Tensor:
        """Maps observations `[O', E]` to actions `[2, E]` in [-1, 1]."""


class StillPrey(Prey):
    """A prey that exerts no force; contacts still move it."""

    identity = {"kind": "still"}

    def act(self, observations: Tensor) -> Tensor:
        """Returns zeros `[2, E]`."""
        return torch.zeros_like(observations[:2])


class ScriptedPrey(Prey):
    """A prey that flees from predators (near ones first), avoids obstacles, and turns back before it leaves the arena.

    Predators repel with 1/distance^2 and obstacles with 0.05/distance^3, together with at most a fifth of the prey's
    force, which just sustains its top speed; with full force no predator could come near it. A spring that starts at
    0.7 from the centre, on the position expected 0.3 s ahead, keeps it inside.

    Args:
        scenario: specifies the positions of predators and obstacles in an observation.
    """

    identity = {"kind": "scripted", "version": 1}

    def __init__(self, scenario: Scenario) -> None:
        self._predators, self._obstacles = scenario.predators, scenario.obstacles

    def act(self, observations: Tensor) -> Tensor:
        """Returns the forces of flight and spring, `[2, E]`."""
        flight = _away_from(observations[self._predators], power=3)
        flight.add_(_away_from(observations[self._obstacles], power=4), alpha=0.05)
        flight.mul_(0.2).div_(flight.abs().amax(dim=0).mul_(5.0).clamp_(min=1.0))
        ahead = torch.add(observations[2:4], observations[0:2], alpha=0.3)
        outside = ahead - ahead.clamp(-0.7, 0.7)
        return flight.sub_(outside, alpha=5.0).clamp_(-1.0, 1.0)


class NetworkPrey(Prey):
    """A prey whose actions come from a network: 64-64 ReLU, **tanh** output.

    Args:
        layers: three, see `Layers`.
        identity, reference: see `Prey`.
        device, dtype: those of the observations.
    """

    def __init__(
        self,
        layers: Layers,
        identity: dict[str, Any],
        reference: ReferenceScores | None,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.identity, self.reference = identity, reference
        self._layers = [(matrix.to(device, dtype), bias.to(device, dtype)[:, None]) for matrix, bias in layers]

    def act(self, observations: Tensor) -> Tensor:
        """Returns the tanh of the network's output, `[2, E]`."""
        (first, bias_1), (second, bias_2), (third, bias_3) = self._layers
        hidden = torch.addmm(bias_1, first, observations).relu_()
        hidden = torch.addmm(bias_2, second, hidden).relu_()
        return torch.addmm(bias_3, third, hidden).tanh_()

    @property
    def observation_dim(self) -> int:
        """O', the number of observation entries that the network was trained on."""
        return self._layers[0][0].shape[1]


def shipped_prey(task: str) -> Path:
    """The path of the file of the prey called `trained`."""
    return Path(__file__).parent / "weights" / f"mpe_{task}_prey.safetensors"


def make_prey(prey: str, scenario: Scenario, device: torch.device, dtype: torch.dtype) -> Prey:
    """Builds the prey that a user names.

    Args:
        prey: `trained` (the one that ships for the scenario), `scripted`, `still`, or a file: a `.safetensors` of
            `dof data train-behavior`, or one of OMAR's torch files.
        scenario: Tag or World.
        device: the device of the observations.
        dtype: the dtype of the observations.

    Raises:
        UserError: there is no such prey, the file contains none, or the prey belongs to the other task.
    """
    if prey == "still":
        return StillPrey()
    if prey == "scripted":
        return ScriptedPrey(scenario)
    path = shipped_prey(scenario.task) if prey == "trained" else Path(prey).expanduser()
    if not path.is_file():
        raise UserError(f"env.prey={prey!r}: no such prey and no such file; {_CHOICES}")
    content = path.read_bytes()
    kind, read = ("trained", _read_ours) if path.suffix == ".safetensors" else ("omar", _read_omars)
    try:
        identity = {"kind": kind, "sha256": hashlib.sha256(content).hexdigest()}
        found = NetworkPrey(read(content), identity, read_scores(path, identity["sha256"]), device, dtype)
    except (
        pickle.UnpicklingError,
        SafetensorError,
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:
        raise UserError(f"env.prey={prey!r}: no prey in this file ({type(error).__name__}); {_CHOICES}") from error
    if found.observation_dim != scenario.prey_observation_dim:
        raise UserError(
            f"env.prey={prey!r}: its network takes {found.observation_dim} numbers, this task's prey "
            f"{scenario.prey_observation_dim}; take the file of this task"
        )
    return found


def save_prey(path: Path, layers: Layers, story: Mapping[str, Any]) -> None:
    """Writes a prey as float16, with a record of how it was made."""
    tensors = {
        f"layer_{index}.{name}": tensor.detach().to(torch.float16).contiguous()
        for index, layer in enumerate(layers)
        for name, tensor in zip(("weight", "bias"), layer, strict=True)
    }
    save_file(tensors, path, metadata={"story": json.dumps(story, sort_keys=True)})


def save_scores(prey: Path, scores: ReferenceScores) -> None:
    """Writes the scores measured against a prey beside its file."""
    stored = {"prey_sha256": hashlib.sha256(prey.read_bytes()).hexdigest(), **asdict(scores)}
    _scores_file(prey).write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")


def read_scores(prey: Path, sha256: str) -> ReferenceScores | None:
    """Reads the scores measured against a prey; None if there are none, or if they belong to another prey.

    Raises:
        ValueError: the file is not JSON.
        LookupError: the file lacks an entry.
    """
    path = _scores_file(prey)
    if not path.is_file():
        return None
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if stored["prey_sha256"] != sha256:
        return None
    return ReferenceScores(stored["random"], stored["expert"], f"against this prey ({sha256[:8]}): {stored['source']}")


def _scores_file(prey: Path) -> Path:
    return prey.with_name(f"{prey.stem.removesuffix('_prey')}_scores.json")


def _read_ours(content: bytes) -> Layers:
    tensors = load(content)
    return [(tensors[f"layer_{index}.weight"], tensors[f"layer_{index}.bias"]) for index in range(3)]


def _read_omars(content: bytes) -> Layers:
    """Reads OMAR's network; its input's batch normalisation (running statistics) becomes part of the first layer."""
    loaded = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    weights = {name: weight.to(torch.float64) for name, weight in loaded["agent_params"][3]["policy"].items()}
    scale = weights["in_fn.weight"] * (weights["in_fn.running_var"] + 1e-5).rsqrt()
    shift = weights["in_fn.bias"] - weights["in_fn.running_mean"] * scale
    first = (weights["fc1.weight"] * scale, weights["fc1.bias"] + weights["fc1.weight"] @ shift)
    return [first, *((weights[f"{name}.weight"], weights[f"{name}.bias"]) for name in ("fc2", "fc3"))]


def _away_from(relative: Tensor, power: int) -> Tensor:
    """Sums over bodies -relative / distance^power: `[2 n, E]` to `[2, E]`."""
    bodies = relative.reshape(-1, 2, relative.shape[-1])
    distances = torch.hypot(bodies[:, 0], bodies[:, 1]).clamp_(min=1e-3)
    return -(bodies * distances.pow_(-power)[:, None]).sum(dim=0)
