"""One agent as a process: `python -m dof_lightning.deployment.serve agent_0.json`, one line of JSON in, one line out.

    {"reset": 7}                                       -> {"reset": 7}
    {"observation": [0.1, ...], "legal": [true, ...]}  -> {"action": [0.5, -1.0]}      (legal may be left out)

Actions are in the units of the agent's world; if those are not [-1, 1], or indices from 0, `decision` is the action in
these units. Observations may be `[E, O_i]`, one row per episode. An invalid request is answered by {"error": "..."}.
"""

import json
import os
import signal
import sys
from typing import Any

import torch

from dof_lightning.deployment.agent import Agent, load_agent
from dof_lightning.errors import UserError
from dof_lightning.plain import parse_json


def serve(agent: Agent) -> None:
    """Answers every line of stdin until it is closed."""
    for line in sys.stdin.buffer:  # bytes: a line that cannot be decoded is answered, too
        sys.stdout.write(json.dumps(answer(agent, line)) + "\n")
        sys.stdout.flush()


def answer(agent: Agent, line: str | bytes) -> dict[str, Any]:
    """Answers one line."""
    try:
        request = parse_json(line, most=None)  # observations of any number of episodes
        if "reset" in request:
            agent.reset(request["reset"])
            return {"reset": request["reset"]}
        if "observation" not in request:
            held = (", ".join(request) or "nothing") if isinstance(request, dict) else "no keys"
            return {"error": f'cannot read this line: it needs "reset" or "observation", and contains {held}'}
        legal = request.get("legal")
        legal = None if legal is None else torch.tensor(legal)
        decision = agent.decide(torch.tensor(request["observation"]), legal)
        extra = {} if agent.units is None else {"decision": decision.tolist()}
        return {"action": agent.to_world(decision).tolist()} | extra
    except UserError as error:
        return {"error": str(error)}
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OverflowError) as error:
        return {"error": f"cannot read this line: {type(error).__name__} {error}"}


def main() -> int:
    """Loads the agent that the command line names, and serves it."""
    if len(sys.argv) != 2:
        sys.stderr.write("error: name one agent: python -m dof_lightning.deployment.serve agent_0.json\n")
        return 2
    try:
        agent = load_agent(sys.argv[1])
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    try:
        serve(agent)
    except KeyboardInterrupt:  # the asking process ends, too, and reports it
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader has ended; Python would complain again on exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return 0


if __name__ == "__main__":
    sys.exit(main())
