"""What no agent could run alone is refused, unless centralised execution is asked for."""

from collections.abc import Mapping

from dof_lightning.diffusion.chain import RunsLocally
from dof_lightning.errors import UserError
from dof_lightning.policy import Execution

_LOCAL = {
    "noise_factorization": "concat, wconcat or dec_attention",
    "data_factorization": "concat or wconcat",
    "denoiser": "one without attention over agents, or algorithm=madiff_d, whose agents imagine the others",
    "algorithm.inverse.sharing": "independent or shared",
}


def check_execution(execution: Execution, parts: Mapping[str, RunsLocally]) -> None:
    """Refuses parts that need all agents' data where agents act alone.

    Args:
        execution: what is asked for.
        parts: by the key that picks them, one of `_LOCAL`.

    Raises:
        UserError: names the key and the fix.
    """
    for key, part in parts.items():
        if execution == "decentralized" and not part.local_execution:
            raise UserError(
                f"{key}: {type(part).__name__} cannot run locally (local_execution), agents would need one another's "
                f"data to act; choose {_LOCAL[key]}; or execution=centralized, labelled so wherever it is reported"
            )
