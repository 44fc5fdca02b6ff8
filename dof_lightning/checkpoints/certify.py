"""`dof certify`: N processes with one agent's files each, compared with the batched rollout."""

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dof_lightning.checkpoints.checkpoint import Checkpoint, build_algorithm, build_env
from dof_lightning.checkpoints.export import is_change_of_values
from dof_lightning.checkpoints.overrides import override
from dof_lightning.config.command_line import for_shell
from dof_lightning.deployment.agent import Agent, load_agent
from dof_lightning.deployment.decision import own_noise, told_seed
from dof_lightning.deployment.record import team_records, weights_path
from dof_lightning.envs.base import VectorEnv
from dof_lightning.errors import UserError
from dof_lightning.evaluation.score import cores_per_process
from dof_lightning.files import sha256
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.rollout.run import Rollout, evaluation_seeds, run_rollout
from dof_lightning.schema import anything, many, record, text, whole
from dof_lightning.spec import check_compatible

_ANSWER_SECONDS = 120
_EXPORTED = record(
    {"checkpoint": record({"sha256": text, "step": whole(0)}, others=anything), "changes": many(text)}, others=anything
)
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Comparison:
    """Differences between the agents on their own and the batched rollout.

    Attributes:
        processes: N, one per agent.
        episodes: number of episodes that both played.
        decisions: number of decisions, of all agents in all episodes.
        max_abs_difference: largest difference between two actions; discrete choices count as numbers.
        identical: whether every action and every return is bit-identical.
        return_mean: episode return of the processes, mean over agents and episodes.
        batched_return_mean: the same for the batched rollout.
    """

    processes: int
    episodes: int
    decisions: int
    max_abs_difference: float
    identical: bool
    return_mean: float
    batched_return_mean: float

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as they are printed."""
        return asdict(self)


def certify_agents(
    checkpoint: Checkpoint, folder: Path, tails: Sequence[str] = (), episodes: int = 16, seed: int = 0
) -> Comparison:
    """Plays the same episodes twice and compares every action.

    They are played once as in `dof eval`, all agents and episodes in one batch, and once by N processes. These have one
    agent's two files in an otherwise empty folder, receive that agent's observations through a pipe, and draw their
    noise themselves. The batched agents receive the noise of the same streams (`own_noise`).

    Args:
        checkpoint: the exported checkpoint.
        folder: the output of `dof export`.
        tails: `key=value`, if the environment needs it (`trust=true`).
        episodes: E, at most as many as the environment plays at once.
        seed: seed of episodes and noise.

    Raises:
        UserError: agents are missing or are from another checkpoint, or they act differently.
    """
    torch.set_num_threads(cores_per_process(1))
    agents = _load(folder, checkpoint)
    config = override(checkpoint.config, [*_changes(folder, agents), *tails], command="dof certify")
    env = build_env(config)
    check_compatible(checkpoint.spec, env.spec)
    policy = build_algorithm(checkpoint, config).policy()
    episodes = min(episodes, env.episodes_at_once)  # one chunk: both sides count steps from its start
    seeds = evaluation_seeds(seed, "report", episodes)

    def play(players: DecentralizedPolicy) -> Rollout:
        return run_rollout(players, env, seeds, (seed, "certify"), chunk=episodes, record=True)

    batched = play(_OnOwnNoise(policy, seed))
    with _processes(folder, agents) as processes:
        alone = play(_Alone(agents, processes, seed))
    return _compare(alone, batched, env, policy.rounding)


def _compare(alone: Rollout, batched: Rollout, env: VectorEnv, tolerance: float) -> Comparison:
    assert alone.actions is not None
    assert batched.actions is not None
    difference = float((alone.actions.double() - batched.actions.double()).abs().max())
    same_length = torch.equal(alone.lengths, batched.lengths)
    if difference > tolerance or not same_length:
        raise UserError(
            f"the agents on their own act differently from the batched rollout: max |difference| = {difference:.3g}, "
            f"allowed is {tolerance:.0e}"
        )
    return Comparison(
        processes=env.spec.n_agents,
        episodes=len(alone.lengths),
        decisions=int(alone.lengths.sum()) * env.spec.n_agents,
        max_abs_difference=difference,
        identical=difference == 0 and same_length and torch.equal(alone.returns, batched.returns),
        return_mean=float(alone.returns.mean()),
        batched_return_mean=float(batched.returns.mean()),
    )


class _OnOwnNoise(DecentralizedPolicy):
    """The batched policy on the noise that its agents draw on their own."""

    def __init__(self, policy: DecentralizedPolicy, seed: int) -> None:
        super().__init__()
        self.policy = policy
        self.n_agents = policy.n_agents
        self.shared_seeds = policy.shared_seeds
        self.seed = seed
        self.step = 0

    def initial_carry(self, n_episodes: int, device: torch.device) -> Any:
        self.step = 0
        return self.policy.initial_carry(n_episodes, device)

    def draw_shared_seed(self, n_episodes: int, generator: torch.Generator) -> Tensor | None:
        return told_seed(self.policy, n_episodes, self.seed)

    def draw_noise(self, n_episodes: int, generator: torch.Generator) -> Tensor:
        alone = [self.policy.export(agent) for agent in range(self.n_agents)]
        own = [own_noise(policy, n_episodes, self.seed, i, self.step) for i, policy in enumerate(alone)]
        self.step += 1
        return torch.cat(own, dim=1)

    def act_on_noise(self, observations: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        return self.policy.act_on_noise(observations, carry, legal, noise)


class _Alone(DecentralizedPolicy):
    """N processes behind the interface of a batched policy; the processes make all decisions."""

    def __init__(self, agents: Sequence[Agent], processes: Sequence[subprocess.Popen], seed: int) -> None:
        super().__init__()
        self.n_agents = len(agents)
        self.agents, self.processes, self.seed = agents, processes, seed
        self.action_width = max(agent.action_dim for agent in agents)

    def initial_carry(self, n_episodes: int, device: torch.device) -> Any:
        self._ask([{"reset": self.seed}] * self.n_agents)

    def draw_noise(self, n_episodes: int, generator: torch.Generator) -> Tensor:
        return torch.empty(n_episodes, self.n_agents, 0)

    def act_on_noise(self, observations: Tensor, carry: Any, legal: Tensor | None, noise: Tensor) -> tuple[Tensor, Any]:
        if legal is not None:
            legal = legal | ~legal.any(-1, keepdim=True)  # after an episode's end nothing may be legal
        requests: list[dict[str, Any]] = []
        for agent in self.agents:
            requests.append({"observation": observations[:, agent.index, : agent.observation_dim].tolist()})
            if legal is not None:
                requests[-1]["legal"] = legal[:, agent.index, : agent.action_dim].tolist()
        # Our environments take the decision; an answer contains it if the world's units differ from it.
        actions = [torch.tensor(answer.get("decision", answer["action"])) for answer in self._ask(requests)]
        if actions[0].ndim > 1:
            widths = [self.action_width - action.shape[-1] for action in actions]
            actions = [torch.nn.functional.pad(a, (0, width)) for a, width in zip(actions, widths, strict=True)]
        return torch.stack(actions, dim=1), None

    def _ask(self, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Sends every agent its request before reading any answer, so that all decide at once."""
        for process, request in zip(self.processes, requests, strict=True):
            assert process.stdin is not None
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        return [_answer(agent.name, process) for agent, process in zip(self.agents, self.processes, strict=True)]


def _answer(name: str, process: subprocess.Popen) -> dict[str, Any]:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], _ANSWER_SECONDS)
    line = process.stdout.readline() if ready else ""
    if not line:
        raise RuntimeError(f"the process of {name} does not answer (exit code {process.poll()})")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise RuntimeError(f"the process of {name} answers: {answer['error']}")
    return answer


def _changes(folder: Path, agents: Sequence[Agent]) -> list[str]:
    """The values that the team was exported with.

    Raises:
        UserError: agents were exported with different ones, or their records contain more than `dof export` writes.
    """
    changes: list[str] = agents[0].record["changes"]
    if any(agent.record["changes"] != changes for agent in agents):
        raise UserError(f"agents={folder} were exported with different values; export the team again")
    if wrong := [tail for tail in changes if not is_change_of_values(tail)]:
        raise UserError(f"agents={folder} record the change {wrong[0]!r}, which `dof export` never writes")
    return changes


def _load(folder: Path, checkpoint: Checkpoint) -> list[Agent]:
    """Loads all agents of the team in order, and checks that they were exported from this checkpoint."""
    if not folder.is_dir():
        command = for_shell("dof", "export", f"checkpoint={checkpoint.path}")
        raise UserError(f"agents={folder} does not exist; write it with `{command}`")
    agents = [load_agent(path) for path in team_records(folder).values()]
    names = [agent.name for agent in checkpoint.spec.environment.agents]
    if [agent.name for agent in agents] != names:
        raise UserError(f"agents={folder} contains {[a.name for a in agents]}, the checkpoint's team is {names}")
    wanted = sha256(checkpoint.path)
    for agent in agents:
        try:
            _EXPORTED("", agent.record)
        except ValueError as error:
            raise UserError(f"agents={folder}: the json of {agent.name} is damaged: {error}") from error
        if agent.record["checkpoint"]["sha256"] != wanted:
            raise UserError(
                f"agents={folder}: {agent.name} was exported from another checkpoint (step "
                f"{agent.record['checkpoint']['step']}) than {checkpoint.path} (step {checkpoint.step})"
            )
    return agents


@contextmanager
def _processes(folder: Path, agents: Sequence[Agent]) -> Iterator[list[subprocess.Popen]]:
    """Starts one process per agent, in a folder with that agent's files only."""
    environment = os.environ | {"OMP_NUM_THREADS": str(cores_per_process(len(agents)))}
    environment["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with ExitStack() as stack:
        processes = []
        for agent in agents:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"dof_{agent.name}_")))
            record = folder / f"{agent.name}.json"
            for file in (record, weights_path(record)):
                shutil.copy(file, home)
            command = [sys.executable, "-m", "dof_lightning.deployment.serve", record.name]
            process = subprocess.Popen(
                command, cwd=home, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        yield processes
