"""Trains one algorithm on one dataset: `python train.py experiment=mpe_spread_expert` (`--help` for more)."""

import sys

import hydra
from omegaconf import DictConfig

from dof_lightning.config import compose as configuration
from dof_lightning.config import messages


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> None:
    """Hydra's entry; everything else is `training.run`, or `runner.run` where several runs are compared."""
    if configuration.is_job_elsewhere():
        return run(cfg)  # the sweep's launcher brings an error home from the job's process
    # Leaving here keeps Hydra from adding lines of its own to what the user can mend.
    if code := messages.exit_with_one_line(lambda: run(cfg)):
        sys.exit(code)


def run(cfg: DictConfig) -> None:
    """One run, one study, or one job of a sweep."""
    composed, typed = configuration.composed_by_hydra_main(cfg)
    from dof_lightning.studies import runner  # torch is imported after --help and typing mistakes have been dealt with
    from dof_lightning.training import run as training

    if composed.choices["study"] == "none":
        training.run(composed, typed)
    else:
        runner.run(composed, typed)


if __name__ == "__main__":
    sys.exit(messages.exit_with_one_line(main, typed=sys.argv[1:]))
