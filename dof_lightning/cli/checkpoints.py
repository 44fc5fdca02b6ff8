"""The commands on a checkpoint: `dof eval`, `export`, `certify` and `igd`.

Arguments are checked before torch is imported, so that a mistake is reported at once.
"""

import json
import sys
from pathlib import Path
from typing import Any

from dof_lightning.checkpoints.location import find_checkpoint
from dof_lightning.config.command_line import take, take_integer
from dof_lightning.errors import UserError

_EVAL_HELP = (
    "roll a checkpoint out: dof eval checkpoint=<path> [rollout.report_episodes=200] [env=mpe_spread]; a list gives a "
    "table and a figure: sampler.steps=[1,2,5] sampler=[ddim,dpm_solver] [output=<folder>]"
)
_EXPORT_HELP = (
    "write one pair of files per agent: dof export checkpoint=<path> [output=<folder>] "
    "[format=safetensors|torch_export] [sampler.steps=5] [algorithm.candidates=1]"
)
_CERTIFY_HELP = (
    "play with one process per agent, each from its own files, and compare with the batched rollout: "
    "dof certify checkpoint=<path> agents=<folder> [episodes=16] [seed=0]"
)
_IGD_HELP = (
    "measure on a checkpoint whether the joint distribution is the agents' product: dof igd checkpoint=<path> [seed=0] "
    "[draws=1024] [conditions=4]; or what it cannot represent: dof igd checkpoint=<factorised> compare=<centralised>"
)


def _evaluate(tails: list[str]) -> None:
    path, others = _take_checkpoint(tails)
    output, others = take(others, "output")
    from dof_lightning import console
    from dof_lightning.checkpoints import checkpoint as checkpoints
    from dof_lightning.checkpoints.overrides import override
    from dof_lightning.evaluation import grid
    from dof_lightning.evaluation.score import evaluate

    checkpoint = checkpoints.read(path)
    others = _with_trust(checkpoint, others)
    if any(grid.listed(checkpoint.config, others)):
        _evaluate_each(checkpoint, others, None if output is None else Path(output))
        return
    if output is not None:
        raise UserError(
            "output= is for the table of a sweep, but no key has a list; type one, e.g. sampler.steps=[2,5]"
        )
    config = override(checkpoint.config, others)
    score = evaluate(checkpoint, config).to_dict()
    env = checkpoints.build_env(config).spec
    console.show_scores(console.make_console(stderr=True), {f"step {checkpoint.step}": score}, checkpoint.behavior, env)
    print(json.dumps(score))


def _evaluate_each(checkpoint: Any, tails: list[str], output: Path | None) -> None:
    from dof_lightning import console
    from dof_lightning.checkpoints import checkpoint as checkpoints
    from dof_lightning.evaluation import grid, grid_report

    keys = grid.listed(checkpoint.config, tails)
    variants = grid.expand(checkpoint.config, tails)
    where = grid_report.files(checkpoint.path, keys, output)
    results = grid.measure(checkpoint, variants)
    grid_report.show(console.make_console(stderr=True), results)
    print(json.dumps({"step": checkpoint.step, "results": [result.to_dict() for result in results]}), flush=True)
    grid_report.write(where, checkpoint, tails, results, checkpoints.build_env(variants[0].config))
    print(f"written: {where.table}, {where.values}, {where.figure}", file=sys.stderr)


def _export(tails: list[str]) -> None:
    path, others = _take_checkpoint(tails)
    output, others = take(others, "output")
    file_format, others = take(others, "format")
    from dof_lightning.checkpoints import checkpoint as checkpoints
    from dof_lightning.checkpoints.export import export_agents

    where, checkpoint = None if output is None else Path(output), checkpoints.read(path)
    print(export_agents(checkpoint, _with_trust(checkpoint, others), where, file_format or "safetensors"))


def _certify(tails: list[str]) -> None:
    path, others = _take_checkpoint(tails)
    folder, others = take(others, "agents")
    if folder is None:
        raise UserError("agents= is missing; it is the folder that `dof export` wrote")
    episodes, others = take_integer(others, "episodes", default=16, least=1)
    seed, others = take_integer(others, "seed", default=0, least=0)
    from dof_lightning import console
    from dof_lightning.checkpoints import checkpoint as checkpoints
    from dof_lightning.checkpoints.certify import certify_agents

    checkpoint = checkpoints.read(path)
    compared = certify_agents(checkpoint, Path(folder), _with_trust(checkpoint, others), episodes, seed).to_dict()
    verdict = "bit-identical" if compared["identical"] else "not bit-identical"
    console.make_console(stderr=True).print(
        f"{compared['processes']} processes, {compared['episodes']} episodes, {compared['decisions']:,} decisions; "
        f"from the batched rollout: max |difference| {compared['max_abs_difference']:.3g} ({verdict}); "
        f"return {compared['return_mean']:.1f} alone, {compared['batched_return_mean']:.1f} batched",
        highlight=False,
        soft_wrap=True,
    )
    print(json.dumps(compared))


def _igd(tails: list[str]) -> None:
    path, others = _take_checkpoint(tails)
    other, others = take(others, "compare")
    print(
        json.dumps(
            _gauge(path, others) if other is None else _gap(path, find_checkpoint(Path(other), "compare"), others)
        )
    )


def _gauge(path: Path, tails: list[str]) -> dict[str, Any]:
    from dof_lightning.checkpoints import checkpoint as checkpoints
    from dof_lightning.checkpoints.overrides import override
    from dof_lightning.evaluation.igd import Effort, gauge, has_joint_chain
    from dof_lightning.evaluation.score import certificate_episodes
    from dof_lightning.rollout.certificate import certify

    draws, tails = take_integer(tails, "draws", default=Effort.draws, least=16)
    conditions, tails = take_integer(tails, "conditions", default=Effort.conditions, least=1)
    checkpoint = checkpoints.read(path)
    config = override(checkpoint.config, _with_trust(checkpoint, tails), command="dof igd")
    policy, env = checkpoints.build_algorithm(checkpoint, config).policy(), checkpoints.build_env(config)
    if not has_joint_chain(policy):
        name = config["choices"]["algorithm"]
        raise UserError(
            f"checkpoint={path}: algorithm={name} has no joint chain of f and h to measure; dof_policy, dof_cloning, "
            "dof_trajectory, madiff_c and independent_diffusion have"
        )
    conditions = max(conditions, policy.shared_seeds or 0)  # one per shared seed, which conditions the distribution
    measured = gauge(policy, env, config["seed"], Effort(conditions=conditions, draws=draws)).to_dict()
    certificate = certify(policy, env, config["seed"], certificate_episodes(config))
    return measured | {"certificate_max_abs_delta": certificate.max_abs_delta}


def _gap(path: Path, other: Path, tails: list[str]) -> dict[str, Any]:
    from dof_lightning.algorithms.dof import DoFLightningModule
    from dof_lightning.checkpoints import checkpoint as checkpoints
    from dof_lightning.checkpoints.overrides import override
    from dof_lightning.config import compose as configuration
    from dof_lightning.evaluation.coordination_gap import estimate
    from dof_lightning.training import preparation

    models, configs = [], []
    for checkpoint in (checkpoints.read(path), checkpoints.read(other)):
        configs.append(override(checkpoint.config, _with_trust(checkpoint, tails), command="dof igd"))
        model = checkpoints.build_algorithm(checkpoint, configs[-1])
        if not isinstance(model, DoFLightningModule):
            raise UserError(f"{checkpoint.path} is no diffusion model joined by f and h: no gap to estimate")
        models.append(model)
    config = configs[0]
    data = configuration.build(config["data"]["module"])(
        path=preparation.locate_dataset(config), window=models[0].window, seed=config["seed"]
    )
    data.setup()
    if data.spec.fingerprint != models[0].spec.fingerprint:
        raise UserError(f"{data.manifest.location} is not the dataset that {path} was trained on")
    gap = estimate(models[0], models[1], data.heldout_batches(), config["seed"])
    if gap.nats < -3 * gap.standard_error:
        print("a gap below 0 is impossible: train the model of compare= longer", file=sys.stderr)
    return gap.to_dict()


COMMANDS: dict[str, Any] = {
    "eval": (_evaluate, _EVAL_HELP),
    "export": (_export, _EXPORT_HELP),
    "certify": (_certify, _CERTIFY_HELP),
    "igd": (_igd, _IGD_HELP),
}


def _with_trust(checkpoint: Any, tails: list[str]) -> list[str]:
    """The tails, with trust=true if it was typed for this run folder or file before; prints what is trusted."""
    from dof_lightning.checkpoints import trust

    if "trust=true" in tails:
        trust.remember(trust.place_of(checkpoint.path), checkpoint.config)
        return tails
    if any(tail.startswith("trust=") for tail in tails):
        return tails
    names = trust.remembered(checkpoint.path, checkpoint.config)
    if not names:
        return tails
    print(f"trusted before: {', '.join(names)}", file=sys.stderr)
    return ["trust=true", *tails]


def _take_checkpoint(tails: list[str]) -> tuple[Path, list[str]]:
    if tails[:1] and "=" not in tails[0]:
        raise UserError(f"cannot read {tails[0]!r}; write key=value, e.g. checkpoint={tails[0]}")
    path, others = take(tails, "checkpoint")
    if path is None:
        raise UserError("checkpoint= is missing; type a run's folder, or <run_dir>/checkpoints/{last,best}.ckpt")
    return find_checkpoint(Path(path)), others
