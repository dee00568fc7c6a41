"""True parameter values that come with simulated data sets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chainsweep.errors import DataError
from chainsweep.numerics.arrays import Floats

TRUTH = "truth"
TRUTH_PREFIX = "truth_"
TRUTH_NAMES = "truth_names"
_ELEMENT = re.compile(r"(?P<name>[^\[\]]+)\[(?P<index>\d+(?:,\s*\d+)*)\]")


def truth_columns(names: Iterable[str]) -> dict[str, str]:
    """Return the name of the ``truth_<parameter>`` column or array of each parameter that has one."""
    return {
        name.removeprefix(TRUTH_PREFIX): name
        for name in names
        if name.startswith(TRUTH_PREFIX) and name not in (TRUTH_PREFIX, TRUTH_NAMES)
    }


def split_matrix(matrix: Floats, names: tuple[str, ...], path: Path) -> dict[str, NDArray]:
    """Return the columns of a ``truth`` matrix (data set, parameter) by parameter name, or else by position.

    Without ``names`` the columns are ``truth[0]``, ``truth[1]`` ... until ``named_truth`` knows the model's.

    Raises
    ------
    DataError
        The number of names is not the number of columns.
    """
    if matrix.ndim == 1:
        matrix = matrix[:, None]
    if matrix.ndim != 2:
        raise DataError(f"{path}: '{TRUTH}' must have shape (data set, parameter), got {matrix.shape}")
    if not names:
        return {f"{TRUTH}[{column}]": matrix[:, column] for column in range(matrix.shape[1])}
    if len(names) != matrix.shape[1]:
        raise DataError(
            f"{path}: '{TRUTH}' has {matrix.shape[1]} columns, but the {len(names)} names known are "
            f"{', '.join(names)}; add an array '{TRUTH_NAMES}' with "
            f"one parameter name a column, or give each parameter as '{TRUTH_PREFIX}<parameter>'"
        )
    return {name: matrix[:, column] for column, name in enumerate(names)}


def named_truth(truth: dict[str, Floats], names: tuple[str, ...], path: Path) -> dict[str, Floats]:
    """Return ``truth``; columns of a matrix that came without names are named by the model's flat ``names``.

    Raises ``DataError`` where the number of columns is not the number of parameters, or one of them is given twice.
    """
    if TRUTH not in truth or TRUTH in names:
        return truth
    named = {name: values for name, values in truth.items() if name != TRUTH}
    columns = join_elements(split_matrix(truth[TRUTH], names, path), path)
    if twice := sorted(named.keys() & columns.keys()):
        raise DataError(
            f"{path}: the truth of '{twice[0]}' is given twice, in '{TRUTH}' and '{TRUTH_PREFIX}{twice[0]}'; keep one"
        )
    return named | columns


def join_elements(columns: Mapping[str, Floats], path: Path) -> dict[str, Floats]:
    """Gather ``theta[0]``, ``theta[1]`` ... of shape (data set,) into ``theta`` of shape (data set, element).

    Raises
    ------
    DataError
        An element is missing, or a parameter is given both as a whole and by elements.
    """
    whole: dict[str, Floats] = {}
    elements: dict[str, dict[tuple[int, ...], NDArray]] = {}
    for name, values in columns.items():
        match = _ELEMENT.fullmatch(name)
        if match is None:
            whole[name] = values
        else:
            index = tuple(int(part) for part in match["index"].split(","))
            elements.setdefault(match["name"], {})[index] = values
    for name, parts in elements.items():
        if name in whole:
            raise DataError(f"{path}: the truth of '{name}' is given both as a whole and by elements; keep one")
        whole[name] = _stack(name, parts, path)
    return whole


def _stack(name: str, parts: dict[tuple[int, ...], NDArray], path: Path) -> Floats:
    ranks = {len(index) for index in parts}
    if len(ranks) > 1:
        raise DataError(f"{path}: the truth of '{name}' mixes elements with {sorted(ranks)} indices")
    shape = tuple(int(size) for size in np.max(np.array(list(parts)), axis=0) + 1)
    absent = [index for index in np.ndindex(*shape) if index not in parts]
    if absent:
        element = ",".join(str(part) for part in absent[0])
        raise DataError(
            f"{path}: the truth of '{name}' has {len(parts)} of {np.prod(shape)} elements; "
            f"'{TRUTH_PREFIX}{name}[{element}]' is missing (use NaN or an empty cell for an unknown value)"
        )
    stacked = np.stack([parts[index] for index in np.ndindex(*shape)], axis=-1)
    return stacked.reshape(len(stacked), *shape)
