"""The packages behind SMAC and SMACv2: checks of their installation, and one seeded game."""

import atexit
import importlib
import importlib.util
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dof_lightning.envs.smac.scenarios import Scenario, capabilities
from dof_lightning.errors import UserError
from dof_lightning.seeding import derive_seed

_PACKAGES = {1: "smac", 2: "smacv2"}
_MODULES = {1: "smac.env", 2: "smacv2.env.starcraft2.wrapper"}
_ADVICE = "see docs/guide/smac.md; env=smax_3m and its like need no game"
_SEED_BITS = 2**31 - 1  # StarCraft II accepts no larger seeds


class Game(Protocol):
    """The part of both packages' environments that is used here."""

    def get_env_info(self) -> dict[str, int]:
        """Returns the dimensions by name."""

    def reset(self) -> Any:
        """Starts a battle."""

    def step(self, actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        """Takes a step; returns the team's reward, whether the battle has ended, and information on it."""

    def get_obs(self) -> list[np.ndarray]:
        """Returns every agent's observation `[O]`."""

    def get_state(self) -> np.ndarray:
        """`[S]`."""

    def get_avail_agent_actions(self, agent_id: int) -> list[int]:
        """Returns `[A]`, 1 for legal actions."""

    def close(self) -> None:
        """Ends the process."""


def missing(version: int) -> str | None:
    """The packages that must be installed for SMAC (`version` 1) or SMACv2 (2), in one line; None if all are."""
    package = _PACKAGES[version]
    home = f"pip install git+https://github.com/oxwhirl/{package}.git"
    if importlib.util.find_spec(package) is None:
        return f"the package {package!r} is not installed; in an environment of its own: {home} ({_ADVICE})"
    if not _has_module(f"{package}.env"):
        return (
            f"the installed {package!r} is another project (SMAC3, hyper-parameter search), not StarCraft's; "
            f"pip uninstall {package}, then {home} ({_ADVICE})"
        )
    game = Path(os.environ.get("SC2PATH", "~/StarCraftII")).expanduser()
    if not game.is_dir():
        return f"StarCraft II is not in {game}; install Blizzard's game and SMAC's maps, or set SC2PATH ({_ADVICE})"
    return None


def make_game(name: str, scenario: Scenario, seed: int) -> Game:
    """Starts one game, whose first battle is a function of the seed as far as StarCraft II allows.

    The game receives the seed's lowest 31 bits at construction, as do SMACv2's generators of teams and positions.

    Raises:
        UserError: the package cannot be imported, or plays the scenario with other dimensions than the datasets'.
    """
    seed &= _SEED_BITS
    module = _import(scenario.version)
    with _without_exit_hooks():
        game = _construct(module, name, scenario, seed)
    if scenario.version == 2:
        _seed_draws(list(game.env_key_to_distribution_map.values()), seed)
    _check_dimensions(name, scenario, game)
    return game


def _construct(module: Any, name: str, scenario: Scenario, seed: int) -> Any:
    # With continuing_episode the game reports whether the time limit ended the battle.
    if scenario.version == 1:
        return module.StarCraft2Env(map_name=name, seed=seed, continuing_episode=True)
    return module.StarCraftCapabilityEnvWrapper(
        capability_config=capabilities(scenario),
        map_name=f"10gen_{scenario.race}",
        seed=seed,
        continuing_episode=True,
        conic_fov=False,
        obs_own_pos=True,
        use_unit_ranges=True,
        min_attack_range=2,
        fully_observable=False,
    )


@contextmanager
def seeded_draws(seed: int, step: int) -> Iterator[None]:
    """Makes a game's draws from global generators a function of seed and step, then restores the generators.

    SMACv2 shuffles teams at reset, and observations at every request, with Python's generator or numpy's.
    """
    before, before_of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(derive_seed(seed, "smac", step) if step else seed)
    np.random.seed(derive_seed(seed, "smac", step) % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(before_of_numpy)  # noqa: NPY002


@contextmanager
def starting(name: str) -> Iterator[None]:
    """Reports in one line that a game did not start.

    Args:
        name: the environment's name.

    Raises:
        UserError: the package raised any exception, because it has no class for a game that ended unexpectedly.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        kind = type(error).__name__
        if kind == "DuplicateMapError":  # raised by pysc2, with which both packages register their maps
            raise UserError(
                f"env={name}: smac and smacv2 cannot be played in one process, because their maps have the same names; "
                "start another one for this environment"
            ) from error
        raise UserError(
            f"env={name}: StarCraft II died while a battle was started ({kind}: {' '.join(str(error).split())}); "
            "type the same command again"
        ) from error


@contextmanager
def _without_exit_hooks() -> Iterator[None]:
    """Removes hooks registered for the end of the process: a game's hook would keep the game alive until then.

    Games are closed by the code that plays them, also at the end of the process.
    """
    register, hooks = atexit.register, []

    def register_and_note(hook: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        hooks.append(hook)
        return register(hook, *args, **kwargs)

    atexit.register = register_and_note  # type: ignore[assignment]
    try:
        yield
    finally:
        atexit.register = register
        for hook in hooks:
            atexit.unregister(hook)


def _has_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:  # raised by the check above
        return False


def _import(version: int) -> Any:
    try:
        return importlib.import_module(_MODULES[version])
    except (ImportError, TypeError) as error:  # generated code that is too old for protobuf raises TypeError
        reason = " ".join(str(error).split())[:100]
        raise UserError(
            f"the package {_PACKAGES[version]!r} cannot be imported ({reason}); StarCraft's protocol needs "
            f"protobuf<3.21, in an environment of its own ({_ADVICE})"
        ) from error


def _seed_draws(distributions: list[Any], seed: int) -> None:
    """Seeds SMACv2's distributions, which draw from their own unseeded generators, some of them nested."""
    for index, distribution in enumerate(distributions):
        parts = vars(distribution)
        if "rng" in parts:
            distribution.rng = np.random.default_rng([seed, index])
        inner = [part for name, part in sorted(parts.items()) if name.endswith(("_distribution", "_generator"))]
        _seed_draws(inner, seed + index + 1)


def _check_dimensions(name: str, scenario: Scenario, game: Game) -> None:
    found = game.get_env_info()
    recorded = {
        "n_agents": scenario.n_agents,
        "n_actions": scenario.n_actions,
        "obs_shape": scenario.observation_dim,
        "state_shape": scenario.state_dim,
        "episode_limit": scenario.horizon,
    }
    unequal = {key: value for key, value in recorded.items() if found.get(key) != value}
    different = [f"{key} {found.get(key)} (data: {value})" for key, value in unequal.items()]
    if different:
        game.close()
        raise UserError(
            f"env.scenario={name}: the installed {_PACKAGES[scenario.version]} has {', '.join(different)}; "
            "policies of these data cannot be rolled out in it, train with rollout=none"
        )
