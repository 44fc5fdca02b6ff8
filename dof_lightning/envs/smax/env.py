"""SMAX: StarCraft-like battles without StarCraft, many at a time (package jaxmarl, `[smax]` extra)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dof_lightning.envs.base import StepInfo, StepResult, VectorEnv, check_discrete
from dof_lightning.envs.smax.maps import BATTLES, HORIZON, Battle
from dof_lightning.envs.smax.program import (
    RELEASE,
    SMAXProgram,
    load_program,
    padded_size,
    split_seeds,
    what_is_missing,
)
from dof_lightning.errors import UserError
from dof_lightning.spec import AgentSpec, EnvSpec

_PICTURE_SIZE = 400
_SCALE = _PICTURE_SIZE / 32.0  # pixels per length; SMAX's maps are squares of 32
_BACKGROUND, _INK = (250, 250, 247), (40, 40, 40)
_ALLY, _ENEMY = (70, 120, 220), (215, 60, 55)


class SMAXEnv(VectorEnv):
    """E battles of N allies against units that SMAX's heuristic controls.

    The spec is known without jaxmarl, so with an existing dataset it is needed for rollouts only; jax is imported at
    the first reset. A battle ends when all units of one side are dead (`terminated`) or after 100 steps (`truncated`).
    The team earns the share of the enemies' health that a step took, and 1 for winning: at most 2 in total, whereas
    SMAC's scale ends at 20. A dead ally may choose `stop` only.

    Args:
        map: a key of `maps.BATTLES`.

    Raises:
        UserError: the map is unknown.
    """

    episodes_at_once = 128

    def __init__(self, map: str) -> None:
        if map not in BATTLES:
            raise UserError(f"env.map={map!r} is unknown; choose one of {', '.join(BATTLES)}")
        self._map, self._battle = map, BATTLES[map]
        self.spec = _make_spec(map, self._battle)
        self._seeds: np.ndarray | None = None
        self._battles: Any = None
        self._seen: Mapping[str, np.ndarray] = {}
        self._n_episodes = self._time = 0

    @property
    def missing(self) -> str | None:
        """See `VectorEnv.missing`."""
        return what_is_missing(self._map)

    def reset(self, seeds: Tensor) -> Tensor:
        """See `VectorEnv.reset`.

        Raises:
            UserError: jaxmarl is not installed, or its map is not the one that the spec describes.
        """
        program = load_program(self._map)
        _check(program, self._map, self._battle)
        self._n_episodes, self._time = len(seeds), 0
        self._seeds = split_seeds(seeds.cpu().numpy(), padded_size(len(seeds)))
        self._battles, seen = program.reset(self._seeds)
        return self._take(seen)

    def step(self, actions: Tensor) -> StepResult:
        """See `VectorEnv.step`; indices `[E, N]`: up, right, down, left, stop, or shoot at an enemy.

        Raises:
            ValueError: the shape is not `[E, N]`, or an index is not a choice.
            RuntimeError: there was no reset, or the battles are over.
        """
        if self._seeds is None or self._time >= HORIZON:
            raise RuntimeError("no episode is running: call reset before step")
        chosen = self._padded(actions)
        self._battles, seen = load_program(self._map).step(self._seeds, self._battles, chosen)
        self._time += 1
        observations = self._take(seen)
        terminated = self._tensor("over")
        return StepResult(
            observations=observations,
            rewards=self._tensor("reward")[:, None].expand(-1, self._battle.allies).contiguous(),
            terminated=terminated,
            truncated=~terminated & (self._time >= HORIZON),
            info=StepInfo(legal=self.legal, state=self.state, alive=self._tensor("alive"), won=self._tensor("won")),
        )

    @property
    def legal(self) -> Tensor | None:
        """See `VectorEnv.legal`."""
        return self._tensor("legal") if self._seen else None

    @property
    def state(self) -> Tensor | None:
        """See `VectorEnv.state`."""
        return self._tensor("state") if self._seen else None

    def render(self, index: int) -> np.ndarray:
        """See `VectorEnv.render`; 400 x 400, allies blue, enemies red, health as a bar, the dead as outlines."""
        if not self._seen:
            raise RuntimeError("nothing to render: call reset first")
        one = {name: self._seen[name][index] for name in ("positions", "health", "radii")}
        return _draw(**one, n_allies=self._battle.allies, caption=f"{self.spec.name}  step {self._time}/{HORIZON}")

    def _padded(self, actions: Tensor) -> np.ndarray:
        check_discrete(actions, (self._n_episodes, self._battle.allies))
        chosen = actions.detach().cpu().numpy().astype(np.int32)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= self._battle.n_choices):
            raise ValueError(f"actions: an index is not between 0 and {self._battle.n_choices - 1}")
        assert self._seeds is not None
        stop = np.full((len(self._seeds) - len(chosen), self._battle.allies), 4, dtype=np.int32)
        return np.concatenate([chosen, stop])

    def _take(self, seen: Mapping[str, Any]) -> Tensor:
        self._seen = {name: np.asarray(array) for name, array in seen.items()}
        return self._tensor("observations")

    def _tensor(self, name: str) -> Tensor:
        """Returns an entry of the observations for the E requested battles."""
        return torch.tensor(self._seen[name][: self._n_episodes])


def _make_spec(name: str, battle: Battle) -> EnvSpec:
    agents = tuple(AgentSpec(f"ally_{i}", battle.observation_dim, battle.n_choices) for i in range(battle.allies))
    recipe = {
        "family": "smax",
        "package": f"jaxmarl {RELEASE}",
        "map": name,
        "opponent": "SMAX's built-in heuristic",
        "reward": "shared: share of the enemies' health taken + 1 for winning",
        "observation": "own features, allies, enemies: unit_list; state: world_state",
        "horizon": HORIZON,
    }
    prefix = "" if battle.random_units else "smax_"
    return EnvSpec(
        name=f"{prefix}{name}",
        agents=agents,
        action_kind="discrete",
        horizon=HORIZON,
        state_dim=battle.state_dim,
        recipe=recipe,
    )


def _check(program: SMAXProgram, name: str, battle: Battle) -> None:
    """Refuses a jaxmarl whose battle differs from the spec."""
    found = (program.n_allies, program.n_enemies, program.observation_dim, program.state_dim, program.horizon)
    wanted = (battle.allies, battle.enemies, battle.observation_dim, battle.state_dim, HORIZON)
    if found != wanted:
        raise UserError(
            f"env.map={name}: this jaxmarl's map has (allies, enemies, observation, state, steps) {found}, expected "
            f"{wanted}; install jaxmarl {RELEASE}"
        )


def _draw(positions: np.ndarray, health: np.ndarray, radii: np.ndarray, n_allies: int, caption: str) -> np.ndarray:
    """Draws one moment of one battle with Pillow, which needs no display.

    Args:
        positions: `[U, 2]`, allies first, y upwards.
        health: `[U]`, shares of each unit's full health; 0 is dead.
        radii: `[U]`.
        n_allies: number of the U units that are allies.
        caption: a line of text in the upper left corner.

    Returns:
        `[400, 400, 3]` uint8.
    """
    image = Image.new("RGB", (_PICTURE_SIZE, _PICTURE_SIZE), _BACKGROUND)
    canvas = ImageDraw.Draw(image)
    for number, ((x, y), share, radius) in enumerate(zip(positions * _SCALE, health, radii * _SCALE, strict=True)):
        color, y = _ALLY if number < n_allies else _ENEMY, _PICTURE_SIZE - y
        box = (x - radius, y - radius, x + radius, y + radius)
        canvas.ellipse(box, fill=color if share > 0 else None, outline=color)
        if share > 0:
            canvas.line(
                (x - radius, y - radius - 3, x - radius + 2 * radius * share, y - radius - 3), fill=_INK, width=2
            )
    canvas.text((8, 6), caption, fill=_INK)
    return np.asarray(image, dtype=np.uint8).copy()
