"""The packages behind SMAC and SMACv2: whether they are there, and one seeded game of theirs."""

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
_SEED_BITS = 2**31 - 1  # StarCraft II takes no larger seeds


class Game(Protocol):
    """What both packages' environments offer and is used here."""

    def get_env_info(self) -> dict[str, int]:
        """Dimensions by name."""

    def reset(self) -> Any:
        """Starts a battle."""

    def step(self, actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        """The team's reward, whether the battle is over, and how."""

    def get_obs(self) -> list[np.ndarray]:
        """Every agent's `[O]`."""

    def get_state(self) -> np.ndarray:
        """`[S]`."""

    def get_avail_agent_actions(self, agent_id: int) -> list[int]:
        """`[A]`, 1 where legal."""

    def close(self) -> None:
        """Ends the process."""


def missing(version: int) -> str | None:
    """What has to be installed for SMAC (`version` 1) or SMACv2 (2), in one line; None: nothing."""
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
    """One game, whose first battle is a function of the seed as far as StarCraft II is.

    The game gets its lowest 31 bits at construction and, in SMACv2, what draws teams and positions.

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
    # With continuing_episode the game says whether it was the time limit that ended the battle.
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
    """What a game draws from global generators is a function of seed and step; they are left as they were found.

    SMACv2 shuffles teams at reset, and what agents see at every look, with Python's generator or numpy's.
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
    """Says in one line that a game did not start.

    Args:
        name: of the environment.

    Raises:
        UserError: whatever the package raised; of a game that died it has no class of its own.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        kind = type(error).__name__
        if kind == "DuplicateMapError":  # of pysc2, which both packages tell their maps
            raise UserError(
                f"env={name}: smac and smacv2 cannot be played in one process, they name maps alike; "
                "start another one for this environment"
            ) from error
        raise UserError(
            f"env={name}: StarCraft II died while a battle was started ({kind}: {' '.join(str(error).split())}); "
            "type the same command again"
        ) from error


@contextmanager
def _without_exit_hooks() -> Iterator[None]:
    """Takes back what is registered for the end of the process: a game's hook would keep it alive until then.

    Games are closed by who plays them, at the end of the process, too.
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
    except ImportError:  # of what stands above it
        return False


def _import(version: int) -> Any:
    try:
        return importlib.import_module(_MODULES[version])
    except (ImportError, TypeError) as error:  # generated code that is too old for protobuf raises TypeError
        reason = " ".join(str(error).split())[:100]
        raise UserError(
            f"the package {_PACKAGES[version]!r} cannot be imported ({reason}); StarCraft's protocol wants "
            f"protobuf<3.21, in an environment of its own ({_ADVICE})"
        ) from error


def _seed_draws(distributions: list[Any], seed: int) -> None:
    """SMACv2's distributions draw from unseeded generators of their own, some of them inside others."""
    for index, distribution in enumerate(distributions):
        parts = vars(distribution)
        if "rng" in parts:
            distribution.rng = np.random.default_rng([seed, index])
        inner = [part for name, part in sorted(parts.items()) if name.endswith(("_distribution", "_generator"))]
        _seed_draws(inner, seed + index + 1)


def _check_dimensions(name: str, scenario: Scenario, game: Game) -> None:
    told = game.get_env_info()
    recorded = {
        "n_agents": scenario.n_agents,
        "n_actions": scenario.n_actions,
        "obs_shape": scenario.observation_dim,
        "state_shape": scenario.state_dim,
        "episode_limit": scenario.horizon,
    }
    different = [f"{key} {told.get(key)} (data: {value})" for key, value in recorded.items() if told.get(key) != value]
    if different:
        game.close()
        raise UserError(
            f"env.scenario={name}: the installed {_PACKAGES[scenario.version]} has {', '.join(different)}; "
            "policies of these data cannot be rolled out in it, train with rollout=none"
        )
