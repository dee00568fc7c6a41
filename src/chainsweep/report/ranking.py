"""The ranking of data sets by how much they need inspection, from the catalogue alone; every step is columnar."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from chainsweep.numerics.arrays import Floats
from chainsweep.report.views import Thresholds

COLUMNS = ("failed", "not_converged", "excess", "disagreement", "ppc_pvalue")


def engine_pairs(engines: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Return every pair of engines once, in the given order."""
    return tuple(combinations(engines, 2))


def differences(
    catalogue: pd.DataFrame, pair: tuple[str, str], parameters: tuple[str, ...], *, converged_only: bool
) -> pd.DataFrame:
    """Return the difference of the posterior means of two engines in units of their posterior sd.

    ``(mean_a - mean_b) / sqrt((sd_a^2 + sd_b^2) / 2)``; index: data set id, one column per parameter. NaN
    where one of the figures is missing or both sds are zero.
    """
    left, right = (_of_engine(catalogue, name, converged_only=converged_only) for name in pair)
    ids = left.index.intersection(right.index)
    left, right = left.loc[ids], right.loc[ids]
    out = {}
    for name in parameters:
        if f"mean_{name}" not in catalogue.columns:
            continue
        scale = np.sqrt((_column(left, f"sd_{name}") ** 2 + _column(right, f"sd_{name}") ** 2) / 2)
        shift = _column(left, f"mean_{name}") - _column(right, f"mean_{name}")
        out[name] = np.divide(shift, scale, out=np.full(len(ids), np.nan), where=scale > 0)
    return pd.DataFrame(out, index=ids)


def largest_difference(
    catalogue: pd.DataFrame, pair: tuple[str, str], parameters: tuple[str, ...], *, converged_only: bool
) -> pd.Series:
    """Return for each data set the largest absolute difference over all parameters; NaN rows are left out."""
    table = differences(catalogue, pair, parameters, converged_only=converged_only)
    return table.abs().max(axis=1).dropna()


def excess(catalogue: pd.DataFrame, thresholds: Thresholds) -> Floats:
    """Return the distance ``(row,)`` from the threshold missed by most, in natural-log units; 0 where all pass."""
    distance = np.zeros(len(catalogue))
    with np.errstate(divide="ignore", invalid="ignore"):
        for candidate in (
            np.log((_column(catalogue, "rhat_max") - 1) / (thresholds.rhat - 1)),
            np.log(thresholds.ess / _column(catalogue, "ess_bulk_min")),
            np.log(thresholds.ess / _column(catalogue, "ess_tail_min")),
            np.log(_column(catalogue, "khat") / thresholds.khat),
            np.log1p(_column(catalogue, "divergences")),
        ):
            distance = np.fmax(distance, candidate)
    return distance


def rank(
    catalogue: pd.DataFrame, engines: tuple[str, ...], parameters: tuple[str, ...], thresholds: Thresholds
) -> pd.DataFrame:
    """Rank the data sets, worst first.

    Order: engines that failed (or found bad data), engines that did not converge, distance from the
    thresholds, largest disagreement between engines, smallest posterior predictive p-value, id.

    Returns
    -------
    DataFrame
        Index: data set id; columns ``failed, not_converged, excess, disagreement, ppc_pvalue``.
    """
    if catalogue.empty:
        return pd.DataFrame(columns=list(COLUMNS), index=pd.Index([], name="dataset_id"), dtype=float)
    verdict = catalogue["verdict"].to_numpy()
    open_ = verdict != "converged"
    rows = pd.DataFrame(
        {
            "dataset_id": catalogue["dataset_id"].to_numpy(),
            "failed": np.isin(verdict, ("failed", "bad_data")).astype(int),
            "not_converged": (verdict == "not_converged").astype(int),
            "excess": np.where(open_, excess(catalogue, thresholds), 0.0),
            "ppc_pvalue": _column(catalogue, "ppc_pvalue"),
        }
    )
    table = rows.groupby("dataset_id", sort=True).agg(
        {"failed": "sum", "not_converged": "sum", "excess": "max", "ppc_pvalue": "min"}
    )
    table["disagreement"] = _disagreement(catalogue, engines, parameters).reindex(table.index)
    keys = table.assign(disagreement=table["disagreement"].fillna(0.0), ppc_pvalue=table["ppc_pvalue"].fillna(1.0))
    order = np.lexsort(
        [keys["ppc_pvalue"], -keys["disagreement"], -keys["excess"], -keys["not_converged"], -keys["failed"]]
    )
    return table.iloc[order][list(COLUMNS)]


def _disagreement(catalogue: pd.DataFrame, engines: tuple[str, ...], parameters: tuple[str, ...]) -> pd.Series:
    parts = [largest_difference(catalogue, pair, parameters, converged_only=False) for pair in engine_pairs(engines)]
    known = [part for part in parts if len(part)]
    if not known:
        return pd.Series(dtype=float)
    return pd.concat(known).groupby(level=0).max()


def _of_engine(catalogue: pd.DataFrame, engine: str, *, converged_only: bool) -> pd.DataFrame:
    keep = catalogue["engine"] == engine
    if converged_only:
        keep &= catalogue["verdict"] == "converged"
    return catalogue[keep].set_index("dataset_id")


def _column(table: pd.DataFrame, name: str) -> Floats:
    """Return a numeric column as float64; NaN where it is null or the column is absent."""
    if name not in table.columns:
        return np.full(len(table), np.nan)
    return table[name].to_numpy(dtype=np.float64, na_value=np.nan)
