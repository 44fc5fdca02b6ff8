"""Policies of the prey that the predators of Tag and World chase; none of them is learned here."""

import hashlib
import pickle
from abc import ABC, abstractmethod
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dof_lightning.envs.particle_scenarios import Scenario
from dof_lightning.errors import UserError

_CHOICES = "choose still, scripted, or the path of OMAR's simple_{tag,world}_pretrained_adv_model.pt"


class Prey(ABC):
    """One prey in E episodes, acting on what it sees.

    Attributes:
        identity: who it is, for the environment's recipe; JSON values only.
    """

    identity: dict[str, Any]

    @abstractmethod
    def act(self, observations: Tensor) -> Tensor:
        """Maps observations `[O', E]` to actions `[2, E]` in [-1, 1]."""


class StillPrey(Prey):
    """Never pushes itself; contacts still move it."""

    identity = {"kind": "still"}

    def act(self, observations: Tensor) -> Tensor:
        """Zeros, `[2, E]`."""
        return torch.zeros_like(observations[:2])


class ScriptedPrey(Prey):
    """Runs from the predators, near ones first, around obstacles, and turns back before it leaves the arena.

    Predators repel with 1/distance^2 and obstacles with 0.05/distance^3, together with at most a fifth of the prey's
    force, which just sustains its top speed; full force would let no predator ever come near. A spring that starts at
    0.7 from the centre, on the position expected 0.3 s ahead, keeps it inside.

    Args:
        scenario: tells where predators and obstacles are in an observation.
    """

    identity = {"kind": "scripted", "version": 1}

    def __init__(self, scenario: Scenario) -> None:
        self._predators, self._obstacles = scenario.predators, scenario.obstacles

    def act(self, observations: Tensor) -> Tensor:
        """Flight plus spring, `[2, E]`."""
        flight = _away_from(observations[self._predators], power=3)
        flight.add_(_away_from(observations[self._obstacles], power=4), alpha=0.05)
        flight.mul_(0.2).div_(flight.abs().amax(dim=0).mul_(5.0).clamp_(min=1.0))
        ahead = torch.add(observations[2:4], observations[0:2], alpha=0.3)
        outside = ahead - ahead.clamp(-0.7, 0.7)
        return flight.sub_(outside, alpha=5.0).clamp_(-1.0, 1.0)


class OmarPrey(Prey):
    """The prey that OMAR's datasets were collected against: batch-normalised input, 64-64 ReLU, tanh output.

    The normalisation uses its running statistics and is folded into the first layer.

    Args:
        weights: `agent_params[3]["policy"]` of OMAR's file.
        sha256: of the file.
        device: where to act.
        dtype: of the observations.

    Raises:
        KeyError: a weight is missing.
    """

    def __init__(
        self, weights: dict[str, Tensor], sha256: str, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self.identity = {"kind": "omar", "sha256": sha256}
        weights = {name: weight.to(torch.float64) for name, weight in weights.items()}
        scale = weights["in_fn.weight"] * (weights["in_fn.running_var"] + 1e-5).rsqrt()
        shift = weights["in_fn.bias"] - weights["in_fn.running_mean"] * scale
        first = (weights["fc1.weight"] * scale, weights["fc1.bias"] + weights["fc1.weight"] @ shift)
        layers = [first, *((weights[f"{name}.weight"], weights[f"{name}.bias"]) for name in ("fc2", "fc3"))]
        self._layers = [(matrix.to(device, dtype), bias.to(device, dtype)[:, None]) for matrix, bias in layers]

    def act(self, observations: Tensor) -> Tensor:
        """Tanh of the network's output, `[2, E]`."""
        (first, bias_1), (second, bias_2), (third, bias_3) = self._layers
        hidden = torch.addmm(bias_1, first, observations).relu_()
        hidden = torch.addmm(bias_2, second, hidden).relu_()
        return torch.addmm(bias_3, third, hidden).tanh_()

    @property
    def observation_dim(self) -> int:
        """O' that the network was trained on."""
        return self._layers[0][0].shape[1]


def make_prey(prey: str, scenario: Scenario, device: torch.device, dtype: torch.dtype) -> Prey:
    """The prey a user names.

    Args:
        prey: `still`, `scripted`, or the path of one of OMAR's torch files.
        scenario: Tag or World.
        device: where to act.
        dtype: of the observations.

    Raises:
        UserError: there is no such prey, the file is not one of OMAR's, or it is the other task's.
    """
    if prey == "still":
        return StillPrey()
    if prey == "scripted":
        return ScriptedPrey(scenario)
    path = Path(prey).expanduser()
    if not path.is_file():
        raise UserError(f"env.prey={prey!r}: no such prey and no such file; {_CHOICES}")
    content = path.read_bytes()
    try:
        loaded = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
        omar = OmarPrey(loaded["agent_params"][3]["policy"], hashlib.sha256(content).hexdigest(), device, dtype)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:
        raise UserError(
            f"env.prey={prey!r}: not one of OMAR's prey files ({type(error).__name__}); {_CHOICES}"
        ) from error
    if omar.observation_dim != scenario.prey_observation_dim:
        raise UserError(
            f"env.prey={prey!r}: its network sees {omar.observation_dim} numbers, this task's prey "
            f"{scenario.prey_observation_dim}; take the file of this task"
        )
    return omar


def _away_from(relative: Tensor, power: int) -> Tensor:
    """Sum over bodies of -relative / distance^power: `[2 n, E]` to `[2, E]`."""
    bodies = relative.reshape(-1, 2, relative.shape[-1])
    distances = torch.hypot(bodies[:, 0], bodies[:, 1]).clamp_(min=1e-3)
    return -(bodies * distances.pow_(-power)[:, None]).sum(dim=0)
