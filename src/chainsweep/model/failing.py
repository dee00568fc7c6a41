"""The ways in which a data set ends without draws, by the words of the sentences that tell them.

A failure travels as a sentence: between processes, through saved states, into files. Whoever makes one builds it
around a value of ``Failing``, and whoever asks for its kind finds it again by that value.
"""

from __future__ import annotations

import enum


class Failing(enum.StrEnum):
    """The ways in which a data set ends without draws; each value is the part of the sentence that says which."""

    RAISED = " raised "
    DIED = " killed its process "
    OVERRAN = " took longer than [model] call_timeout_s "
    NO_LIKELIHOOD = "prior draws has a finite likelihood"
    NO_DESCENT = "no optimiser descent ended at a finite density"
    NO_START = "no start: the log density is finite at "
    NO_WEIGHT = "no draw of the network has a finite log density"
    NOT_FINITE = "observations, errors or constants are not finite"
    NOT_TRAINED = "the network was not trained for it"
    CHECK_RAISED = "a check of its draws raised "


def failing(sentence: str) -> Failing | None:
    """Return the kind of the failure that ``sentence`` tells; None for the error of an engine, which has no such words.

    The first of the words decides, because what follows them may be a user's own message.
    """
    told = {sentence.find(kind): kind for kind in Failing if kind in sentence}
    return told[min(told)] if told else None
