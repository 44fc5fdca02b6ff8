"""Multi-agent MuJoCo: a robot whose joints are divided among agents."""

import contextlib
import dataclasses
import importlib
import importlib.metadata
import io
import os
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from pettingzoo import ParallelEnv

from dof_lightning.envs.pettingzoo.env import PettingZooEnv
from dof_lightning.errors import UserError, explain_missing_module
from dof_lightning.settings import Count, WholeNumber

_FACTORY = "gymnasium_robotics.envs.multiagent_mujoco.mamujoco_v1.parallel_env"
_LONGEST = 1000  # number of steps after which the package itself ends an episode
_USELESS_WARNING = "compiler attribute 'settotalmass' is deprecated"  # about the robot's file, once per copy


class MaMuJoCoEnv(PettingZooEnv):
    """`gymnasium_robotics`' MaMuJoCo (de Witt et al. 2020; Peng et al. 2021) through the PettingZoo adapter.

    Agent i moves its own joints and observes them, nearby joints and the robot's trunk; the reward is the team's. All
    physics are MuJoCo's, so its version is part of the recipe. A time limit is a truncation; an ant that falls or
    jumps terminates.

    Args:
        name: a name for people and folders.
        scenario: the robot, e.g. `HalfCheetah`, `Ant`, `Hopper`, `Walker2d`.
        agent_conf: number of agents and of joints per agent, e.g. `2x3`; the package defines the valid ones.
        agent_obsk: an agent observes joints up to this many links away from its own.
        horizon: steps after which an episode is truncated, 1000 at most.
        global_state: whether to record the robot's observation as the state.
        picture_size: height and width of pictures, in pixels.

    Raises:
        UserError: a package is missing, there is no such robot or partition, or `horizon` is too long.
    """

    is_foreign = False  # one well-tested package, whose episodes are long

    def __init__(
        self,
        *,
        name: str,
        scenario: str,
        agent_conf: str,
        agent_obsk: WholeNumber,
        horizon: int = _LONGEST,
        global_state: bool = True,
        picture_size: Count = 128,
    ) -> None:
        if horizon > _LONGEST:
            raise UserError(f"env.horizon={horizon}: episodes of MaMuJoCo have {_LONGEST} steps at most")
        _prepare()
        task = {"scenario": scenario, "agent_conf": agent_conf, "agent_obsk": agent_obsk}
        super().__init__(
            name=name,
            factory=_FACTORY,
            horizon=horizon,
            arguments=task | {"width": picture_size, "height": picture_size},
            global_state=global_state,
        )
        versions = {"mujoco": importlib.metadata.version("mujoco")}
        recipe = dict(self.spec.recipe) | {"arguments": task, "depends_on": versions}
        self.spec = dataclasses.replace(self.spec, recipe=recipe)

    @property
    def can_render(self) -> bool:
        """See `VectorEnv.can_render`: True if MuJoCo can draw without a display."""
        return super().can_render and _has_graphics()

    def _make(self, arguments: Mapping[str, Any]) -> ParallelEnv:
        try:
            env = super()._make(arguments)
        except Exception as error:  # the package raises bare assertions for unknown names
            if type(error) not in (Exception, NotImplementedError):
                raise
            raise UserError(
                f"env.scenario={arguments['scenario']} with env.agent_conf={arguments['agent_conf']}: "
                f"MaMuJoCo refuses them ({' '.join(str(error).split())})"
            ) from error
        # On a CPU, drawing without shadows and with one sample per pixel takes a fraction of the time.
        quality = env.single_agent_env.unwrapped.model.vis.quality
        quality.shadowsize, quality.offsamples = 0, 0
        return env


def _prepare() -> None:
    """Imports the packages, silences their notes on import, and lets MuJoCo draw without a display."""
    os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        mujoco = importlib.import_module("mujoco")
        with contextlib.redirect_stderr(io.StringIO()):  # a note about other robots at every import
            importlib.import_module("gymnasium_robotics")
    except ModuleNotFoundError as error:
        raise UserError(explain_missing_module("env", _FACTORY, error)) from error
    mujoco.set_mju_user_warning(_warn)


def _warn(message: str) -> None:
    """Replaces MuJoCo's own handler, which would also write every warning to a file in the working folder."""
    if _USELESS_WARNING not in message:
        sys.stderr.write(f"MuJoCo: {message}\n")


@cache
def _has_graphics() -> bool:
    """Whether a picture can be made on this machine; MUJOCO_GL selects how."""
    backend = os.environ["MUJOCO_GL"]
    try:
        importlib.import_module(f"mujoco.{backend}").GLContext(8, 8).free()
    except Exception:  # drivers and their loaders raise errors without a common class
        return False
    return True
