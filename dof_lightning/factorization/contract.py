"""Tests the contract of a user-defined factorisation on a few numbers before anything is trained."""

import copy

import torch
from torch import Tensor

from dof_lightning.factorization.base import Factorization

_TOLERANCE = 1e-4
_DESCENT_STEPS, _DESCENT_RATE = 60, 0.1  # enough for weights of any parametrisation to leave the order of 1
_LEAST_ERROR = 0.1  # share of an error that must be left
_FLAGS = {
    "local_execution": "can agent i run its own part of it from its own data?",
    "satisfies_igd": "is the joint law it trains the product of the agents' laws?",
}


def broken_promise(part: Factorization, like: Tensor, alone: bool = True) -> str | None:
    """The way in which a factorisation breaks its contract, as the rest of a sentence; None if it keeps the contract.

    The contract: the flags are set, shapes are kept, and `split` undoes `join`. If agents can run it alone,
    `select_agent` gives each of them a copy that maps its own part as `local` does. Whether the flags are true is left
    to the contract tests.

    Args:
        part: f or h.
        like: `[N, ...]`, has the shape of one sample's data.
        alone: whether agents are going to act alone.
    """
    for flag, question in _FLAGS.items():
        if not isinstance(getattr(part, flag, None), bool):
            return f"does not say {flag}; set {flag} = True or False in the class: {question}"
    parts = torch.linspace(-1, 1, 2 * like.numel(), device=like.device).reshape(2, *like.shape)
    with torch.no_grad():
        broken = _broken_inverse(part, parts)
        return broken or (_broken_selection(part, parts) if alone and part.local_execution else None)


def _broken_inverse(part: Factorization, parts: Tensor) -> str | None:
    if not part.invertible:
        return None
    joint = part.join(parts)
    if joint.shape != parts.shape:
        return f"joins {list(parts.shape)} to {list(joint.shape)}; join has to keep the shape"
    if not _alike(part.split(joint), parts):
        return "does not undo with split what join does; mend split, or say invertible = False in the class"
    return None


def _broken_selection(part: Factorization, parts: Tensor) -> str | None:
    together = part.local(parts)
    for agent in range(parts.shape[1]):
        mine = slice(agent, agent + 1)
        try:
            alone = part.select_agent(agent)
        except TypeError as error:
            return f"cannot be taken along by one agent: {error}"
        if not _alike(alone.local(parts[:, mine]), together[:, mine]):
            return (
                f"does something else at agent {agent} alone: select_agent({agent}).local of its own part is not what "
                "local makes of it; mend select_agent, or say local_execution = False in the class"
            )
    return None


def shrinks_errors(part: Factorization, like: Tensor) -> bool:
    """Whether a noise factorisation's own parameters can make all agents' noise errors small at once.

    The loss ||f(eps_hat) - f(eps)||^2 (Li et al., 2025, eq. 11) would then fall without any denoiser learning anything.
    It is tried by descending on it with a fixed error of one agent at a time, so that an error which moves to other
    agents is not taken for a small one.

    Args:
        part: f; the descent is on a copy.
        like: `[N, ...]`, has the shape of one sample's data.
    """
    if not part.invertible:
        return False
    # Descends even if the caller only loads and acts (`torch.inference_mode`, `torch.no_grad`).
    with torch.inference_mode(False), torch.enable_grad():
        trained = copy.deepcopy(part)
        parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
        noise = torch.linspace(-1, 1, like.numel(), device=like.device).reshape(1, *like.shape)
        own = torch.eye(len(like), device=like.device).reshape(len(like), len(like), *[1] * (like.dim() - 1))

        def error() -> Tensor:
            joint = trained.join(torch.cat([noise, noise + own]))
            return (joint[1:] - joint[0]).square().mean()

        before = error()
        if not parameters or not before.requires_grad:  # `join` does not use the parameters
            return False
        optimizer = torch.optim.Adam(parameters, _DESCENT_RATE)
        for _ in range(_DESCENT_STEPS):
            optimizer.zero_grad()
            error().clamp_min(1e-30).log().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return bool(error() < _LEAST_ERROR * before)


def _alike(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=_TOLERANCE, atol=_TOLERANCE)
