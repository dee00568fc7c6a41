"""The outcome of a mode check by the rules that judge it."""

from __future__ import annotations

import numpy as np

from chainsweep.config.sections import VerdictSection
from chainsweep.verdicts.mode_check import ModeCheck
from chainsweep.verdicts.rules import checks_of, mode_rules


def lacks_mass(check: ModeCheck) -> np.ndarray:
    """True for each data set whose chains conclusively lack posterior mass, by the default limits."""
    figures = [check.significant_shift, check.significant_mass, check.significant_spread]
    return ~np.all([each.passed for each in checks_of(mode_rules(VerdictSection()), figures)], axis=0)
