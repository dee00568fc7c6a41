"""The causes of every verdict but ``converged``: a closed list, each with its meaning and advice.

``reason`` tells which figures fail; a cause tells why, in one word of a list that a program can count. The catalogue
has it as ``cause``, and as ``hint`` the parameter and value that it was seen at, with the advice.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from chainsweep.model.failing import Failing, failing


class Cause(enum.StrEnum):
    """The causes, most fundamental first: of several that hold for a data set, the first is its cause."""

    BAD_DATA = "bad_data"
    MODEL_ERROR = "model_error"
    LOST_PROCESS = "lost_process"
    CALL_TIMEOUT = "call_timeout"
    TIME_LIMIT = "time_limit"
    CHANGED = "changed"
    UNAVAILABLE = "unavailable"
    CANCELLED = "cancelled"
    INTERNAL_ERROR = "internal_error"
    NOT_A_FUNCTION = "not_a_function"
    INFINITE_DENSITY = "infinite_density"
    DENSITY_NOT_A_NUMBER = "density_not_a_number"
    GRADIENT_NOT_A_NUMBER = "gradient_not_a_number"
    UNDERFLOW = "underflow"
    SIMULATIONS_DROPPED = "simulations_dropped"
    CALIBRATION = "calibration"
    STUCK = "stuck"
    SEVERAL_MODES = "several_modes"
    DIVERGENCES = "divergences"
    MASS_ELSEWHERE = "mass_elsewhere"
    PRIOR_EDGE = "prior_edge"
    UNLIKE_TRAINING = "unlike_training"
    MISFIT = "misfit"
    POOR_PROPOSAL = "poor_proposal"
    TOO_FEW_DRAWS = "too_few_draws"
    MODE_CHECK_INCONCLUSIVE = "mode_check_inconclusive"


@dataclass(frozen=True)
class Told:
    """The meaning of a cause, and what to do about it: the ends of sentences, without a full stop."""

    means: str
    advice: str


TOLD: Mapping[Cause, Told] = MappingProxyType(
    {
        Cause.BAD_DATA: Told(
            "the data set has values that no engine can use",
            "mend the values that the reason names, or mask them with [data] missing, and run `init` again",
        ),
        Cause.MODEL_ERROR: Told(
            "the model's own function raised an error",
            "call the function by hand with this data set at the point of the error, and mend it",
        ),
        Cause.LOST_PROCESS: Told(
            "the process ended without a word: killed, out of memory, or with its node",
            "read the log of the task; give it more memory or smaller shards, and run again",
        ),
        Cause.CALL_TIMEOUT: Told(
            "a call of the model's function took longer than its limit",
            "look for an endless loop at the point that the reason names, or raise [model] call_timeout_s",
        ),
        Cause.TIME_LIMIT: Told(
            "the walltime ended before the task could save progress",
            "raise the walltime of the site, or make smaller shards",
        ),
        Cause.CHANGED: Told(
            "campaign, model, data, image or an installed package is no longer what was frozen",
            "put back what the reason names, or run `init` again in a new folder",
        ),
        Cause.UNAVAILABLE: Told(
            "a device, package or service is missing",
            "run `chainsweep doctor`, provide what the reason names, and run again",
        ),
        Cause.CANCELLED: Told("the job was cancelled or told to stop", "run or submit the campaign again"),
        Cause.INTERNAL_ERROR: Told(
            "an engine or a check raised an error that is not of the model's function",
            "run again with the log at hand, and report the error if it comes back",
        ),
        Cause.NOT_A_FUNCTION: Told(
            "the model gives another log density when it is asked again at the same point",
            "remove random numbers, counters and caches from the model, so that its arguments alone decide",
        ),
        Cause.INFINITE_DENSITY: Told(
            "the log density is +inf, or too large for a number, where the prior has mass",
            "look for a scale or a normalisation that becomes 0 there, and bound it away from 0 in the prior",
        ),
        Cause.DENSITY_NOT_A_NUMBER: Told(
            "the log density is no number where the posterior could have mass",
            "look for a logarithm, root, division or overflow that the point makes invalid, or narrow the prior",
        ),
        Cause.GRADIENT_NOT_A_NUMBER: Told(
            "the gradient is no number where the density is one",
            "make the argument of the unsafe function valid in both branches of jnp.where, and avoid functions of 0",
        ),
        Cause.UNDERFLOW: Told(
            "the log likelihood is -inf at all, or nearly all, prior draws",
            "compute with logarithms throughout (no log of an exp), and check that the prior can make such data",
        ),
        Cause.SIMULATIONS_DROPPED: Told(
            "the network was trained without the simulations that are no numbers, and nothing tells what mass is there",
            "mend the simulator where it gives no numbers, or narrow the prior to where it gives some",
        ),
        Cause.CALIBRATION: Told(
            "the network's intervals do not hold their nominal share of held-out truths",
            "train longer or a larger network (train_steps, transforms, hidden)",
        ),
        Cause.STUCK: Told(
            "a chain has the same value in all of its draws",
            "look for a density that is discontinuous or of one point there, and give it some width",
        ),
        Cause.SEVERAL_MODES: Told(
            "the draws lie in modes with next to no density between them, and chains do not go from one to another",
            "tell the modes apart by the prior (an order, a narrower range), or reparametrise so that they are one",
        ),
        Cause.DIVERGENCES: Told(
            "the sampler diverged: the posterior is curved or narrow in places that its steps cannot follow",
            "reparametrise (a non-centred hierarchy, a logarithm of a scale), or raise tuning.target_accept",
        ),
        Cause.MASS_ELSEWHERE: Told(
            "exactly weighted draws found posterior mass that the draws lack, or other means or sds",
            "compare with another engine, start from its draws, or narrow the prior to the mode that is meant",
        ),
        Cause.PRIOR_EDGE: Told(
            "the posterior piles up at an end of the prior, which chains reach with difficulty",
            "widen the prior beyond that end if values there make sense, or fix the parameter",
        ),
        Cause.UNLIKE_TRAINING: Told(
            "the data set is unlike the simulations that the network was trained on",
            "widen the prior or the designs so that training covers it, or use an engine that trains nothing",
        ),
        Cause.MISFIT: Told(
            "the model does not describe the data, and where no value suits them draws do not settle",
            "look at the residuals in the report, and extend the model or its noise",
        ),
        Cause.POOR_PROPOSAL: Told(
            "the importance weights are too uneven: the proposal does not cover the posterior",
            "train longer or raise tuning.adaptive_rounds, or use an engine with chains",
        ),
        Cause.TOO_FEW_DRAWS: Told("the draws that the budget allows are too few or too correlated", "raise {budget}"),
        Cause.MODE_CHECK_INCONCLUSIVE: Told(
            "nothing is wrong with the draws, but the mode check could not tell whether mass is missing",
            'compare with another engine, or accept it with [verdict] inconclusive = "flag"',
        ),
    }
)

FAILURES: Mapping[Failing, Cause] = MappingProxyType(
    {
        Failing.RAISED: Cause.MODEL_ERROR,
        Failing.DIED: Cause.LOST_PROCESS,
        Failing.OVERRAN: Cause.CALL_TIMEOUT,
        Failing.NO_LIKELIHOOD: Cause.UNDERFLOW,
        Failing.NO_DESCENT: Cause.UNDERFLOW,
        Failing.NO_START: Cause.UNDERFLOW,
        Failing.NO_WEIGHT: Cause.UNDERFLOW,
        Failing.NOT_FINITE: Cause.BAD_DATA,
        Failing.NOT_TRAINED: Cause.UNLIKE_TRAINING,
        Failing.CHECK_RAISED: Cause.INTERNAL_ERROR,
    }
)
"""The cause of a data set without draws, by the kind of its failure."""
NO_DENSITY = frozenset(kind for kind, cause in FAILURES.items() if cause is Cause.UNDERFLOW)
"""The failures for want of a point with a density, of which prior draws tell more (``verdicts/evidence.py``)."""


@dataclass(frozen=True)
class Finding:
    """A cause that a check found on one data set, with the sentence that the verdict's reason gets."""

    cause: Cause
    sentence: str
    at: str = ""
    """The parameter and value that it was found at; empty if it is of no place."""


def cause_of_failure(sentence: str) -> Cause:
    """Return the cause of a data set without draws by the sentence of its failure."""
    kind = failing(sentence)
    return Cause.INTERNAL_ERROR if kind is None else FAILURES[kind]


def most_fundamental(causes: Iterable[Cause]) -> Cause:
    """Return the first of ``causes`` in the order of ``Cause``."""
    found = set(causes)
    return next(cause for cause in Cause if cause in found)


def hint_of(cause: Cause, at: str = "", budget: str = "the budget of the engine") -> str:
    """Return one sentence: the parameter and value ``at``, or else the meaning, and what to do.

    ``budget`` names the setting that allows more draws.
    """
    told = TOLD[cause]
    return f"{at or told.means}: {told.advice.format(budget=budget)}"
