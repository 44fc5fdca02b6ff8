"""Training of one algorithm on one dataset: `python train.py experiment=mpe_spread_expert` (`--help` for more)."""

import sys

import hydra
from omegaconf import DictConfig

from dof_lightning.config import compose as configuration
from dof_lightning.config import messages
from dof_lightning.config.command_line import flags_first

_said: set[str] = set()  # lines about mistakes in the jobs of a sweep


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Serves as Hydra's entry point; `training.run` does the work, or `runner.run` if several runs are compared.

    Returns the score of a job of a sweep, which sweepers like Optuna's compare.
    """
    if configuration.is_job_elsewhere():
        from dof_lightning.training import sweep

        with sweep.labelled(configuration.job_number()):
            return run(cfg)  # the sweep's launcher brings an error home from the job's process
    scores: list[float | None] = []
    mistakes: list[Exception] = []

    def once() -> None:
        try:
            scores.append(run(cfg))
        except Exception as error:
            mistakes.append(error)
            raise

    if code := messages.exit_with_one_line(once, said=_said):
        if mistakes and configuration.is_sweep():
            raise mistakes[0]  # Hydra continues with the other jobs, and raises the first mistake at the end
        sys.exit(code)  # here, which keeps Hydra from adding lines of its own to an error that the user can fix
    return scores[0]


def run(cfg: DictConfig) -> float | None:
    """Performs one run, one study, or one job of a sweep."""
    composed, typed = configuration.composed_by_hydra_main(cfg)
    from dof_lightning.studies import runner  # torch is imported after --help and typing mistakes have been handled
    from dof_lightning.training import run as training
    from dof_lightning.training import sweep

    if configuration.is_sweep():
        sweep.note(configuration.job_number(), typed, folder=None)
    folder = (training.run if composed.choices["study"] == "none" else runner.run)(composed, typed)
    if not configuration.is_sweep():
        return None
    sweep.note(configuration.job_number(), typed, folder.resolve())
    return sweep.score_of(folder)


if __name__ == "__main__":
    from dof_lightning.training.sweep import ending_in_a_table

    sys.argv[1:] = flags_first(sys.argv[1:])
    with ending_in_a_table(sys.argv[1:]):
        code = messages.exit_with_one_line(main, typed=sys.argv[1:], said=_said)
    sys.exit(code)
