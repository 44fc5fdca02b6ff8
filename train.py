"""Trains one algorithm on one dataset: `python train.py experiment=mpe_spread_expert` (`--help` for more)."""

import sys

import hydra
from omegaconf import DictConfig

from dof_lightning import configuration


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> None:
    """Hydra's entry; everything else is `engine.run`."""
    from dof_lightning import engine  # torch is imported after --help and typing mistakes have been dealt with

    engine.run(configuration.composed_by_hydra_main(cfg))


if __name__ == "__main__":
    sys.exit(configuration.exit_with_one_line(main))
