"""Settings by which a diffused actor improves on its data, and the check for contradictions among them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from dof_lightning.actors.diffusion import Selection
from dof_lightning.errors import UserError
from dof_lightning.settings import Count, NonNegative, Positive, Range, Settings, WholeNumber

QGradientRoute = Literal["none", "one_step", "full"]
Temperature = Annotated[float, Range(0, excludes="low", because="algorithm.selection=argmax takes the best candidate")]


@dataclass(frozen=True, kw_only=True)
class ExtractionSettings(Settings):
    """Settings by which a diffused actor improves on its data.

    Attributes:
        q_gradient: `none` (cloning), `one_step` (through the one-step estimate of x0) or `full` (through the sampler's
            chain).
        q_weight: eta, weight of L_q.
        q_balance: r; each agent's eta is set at every update so that the gradient of eta L_q is r times as large as
            that of its noise error; None keeps eta at `q_weight`.
        q_warmup_steps: number of updates in which only cloning and critics learn, before L_q and advantages count.
        advantage_temperature: T; each agent's cloning is weighted by exp(A_i / T), bounded, with T in the rewards'
            original unit; None clones all rows alike.
        candidates: M, number of actions that an agent draws at execution and ranks by its own Q_i.
        selection: among candidates, `argmax` takes the best, `softmax` draws one with probability ~ exp(Q_i / T).
        selection_temperature: T, in the rewards' original unit.
    """

    q_gradient: QGradientRoute = "one_step"
    q_weight: NonNegative = 0.5
    q_balance: Positive | None = None
    q_warmup_steps: WholeNumber = 0
    advantage_temperature: Positive | None = None
    candidates: Count = 10
    selection: Selection = "argmax"
    selection_temperature: Temperature = 1.0


def idle_of_extraction(settings: ExtractionSettings) -> dict[str, str]:
    """The fields of `ExtractionSettings` that nothing reads; see `AlgorithmSettings.idle`."""
    found: dict[str, str] = {}
    if settings.q_balance is not None:
        found["q_weight"] = "algorithm.q_balance sets eta"
    if settings.q_gradient == "none":
        found |= dict.fromkeys(("q_weight", "q_balance"), "algorithm.q_gradient=none")
    elif settings.q_weight == 0 and settings.q_balance is None:
        found["q_gradient"] = "algorithm.q_weight=0"
    if settings.advantage_temperature is None and ("q_gradient" in found or settings.q_gradient == "none"):
        found["q_warmup_steps"] = found.get("q_gradient", "algorithm.q_gradient=none")
    if settings.selection == "argmax":
        found["selection_temperature"] = "algorithm.selection=argmax"
    if settings.candidates == 1:
        found |= dict.fromkeys(("selection", "selection_temperature"), "algorithm.candidates=1")
    return found


def check_extraction(settings: ExtractionSettings, critics: str, local_head: bool) -> None:
    """Refuses a gradient, weights and a ranking by values if no values are learned.

    Args:
        settings: the requested settings.
        critics: `none`, `separate`, `mixed` or `joint`.
        local_head: whether joint critics have one.

    Raises:
        UserError: names the key and the fix.
    """
    if settings.q_gradient != "none" and critics == "none":
        raise UserError(f"algorithm.q_gradient={settings.q_gradient} needs algorithm.critics=separate, mixed or joint")
    if settings.advantage_temperature is not None and critics == "none":
        raise UserError(
            f"algorithm.advantage_temperature={settings.advantage_temperature} weighs rows by critics: set "
            "algorithm.critics=separate, mixed or joint, or algorithm.advantage_temperature=null"
        )
    if settings.candidates > 1 and critics == "none":
        raise UserError(
            "algorithm.candidates above 1 needs critics to rank them: set algorithm.critics or candidates=1"
        )
    if settings.candidates > 1 and critics == "joint" and not local_head:
        raise UserError(
            f"algorithm.candidates={settings.candidates} with algorithm.critics=joint: no agent can rank its own "
            "candidates by a joint Q; set algorithm.local_head=true or algorithm.candidates=1"
        )
