"""The IGD gauge over all noise factorisations, on XOR data. Runs only when named."""

from collections.abc import Sequence

import torch

from benchmarks.xor import OPTIONS, forbidden_share, trained_on_xor, xor_batch
from dof_lightning.actors.diffusion import DiffusionActor
from dof_lightning.evaluation.coordination_gap import estimate
from dof_lightning.evaluation.igd import FULL, Effort, gauge_at
from dof_lightning.files import to_markdown
from dof_lightning.seeding import make_generator

HEADER = (
    *("f", "seed", "Jacobian ratio", "pathwise error", "energy distance", "p", "control p", "HSIC", "HSIC p", "C2ST"),
    *("forbidden, joint", "forbidden, own chains", "passed"),
)


def igd(
    options: Sequence[str] = OPTIONS, seeds: Sequence[int] = (0, 1, 2), steps: int = 1200, effort: Effort = FULL
) -> str:
    """Returns one Markdown line for each f and seed (of weights, data and draws).

    `forbidden` is the share of draws in the two quadrants that the data leave empty, for the joint chain and for the
    agents' own chains.
    """
    return to_markdown(HEADER, [_line(option, seed, steps, effort) for option in options for seed in seeds])


def coordination_gap(seeds: Sequence[int] = (0, 1, 2), steps: int = 6000, diffusion_steps: int = 20) -> str:
    """The coordination gap of concat and of attention, as Markdown; the data's is log 2 = 0.693."""
    lines = []
    for seed in seeds:
        models = [trained_on_xor(option, seed, steps, diffusion_steps) for option in ("concat", "attention")]
        heldout = xor_batch(4096, make_generator(seed, "xor", "held out"))
        gap = estimate(models[0], models[1], [heldout], seed)
        lines.append((str(seed), f"{gap.nats:.3f}", f"{gap.standard_error:.3f}"))
    return to_markdown(("seed", "gap (nats)", "standard error"), lines)


def _line(option: str, seed: int, steps: int, effort: Effort) -> tuple[str, ...]:
    policy = trained_on_xor(option, seed, steps).policy()
    found = gauge_at(policy, torch.zeros(2, 2, 1), seed, effort)
    pathwise = "no own chains" if found.pathwise_error is None else f"{found.pathwise_error:.2g}"
    distances = (found.energy_distance, found.p_value, found.control_p_value, found.hsic, found.hsic_p_value)
    cells = (f"{found.jacobian_ratio:.2g}", pathwise, *(f"{value:.2g}" for value in distances))
    forbidden, passed = _forbidden(policy, seed), "yes" if found.passed else "no"
    return option, str(seed), *cells, f"{found.c2st_accuracy:.3f}", *forbidden, passed


@torch.no_grad()
def _forbidden(policy: DiffusionActor, seed: int) -> tuple[str, str]:
    condition = policy.chain_condition(torch.zeros(4096, 2, 1))
    noise = policy.chain_noise(len(condition), make_generator(seed, "xor", "quadrants")).float()
    joint = forbidden_share(policy.joint_sample(condition, noise))
    alone = f"{forbidden_share(policy.local_sample(condition, noise)):.2f}" if policy.acts_alone else "none"
    return f"{joint:.2f}", alone
