"""The export of one data set from ``posterior.h5`` to the format of another tool."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import h5py
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from chainsweep.errors import ChainsweepError, InputError
from chainsweep.packages import versions
from chainsweep.publish import publish
from chainsweep.store.draws import (
    RESAMPLING_SEED,
    DatasetDraws,
    equal_weights,
    flat_columns,
    read_draws,
    relative_weights,
)

ExportFormat = Literal["netcdf", "emcee", "getdist"]
# The version of emcee whose emcee.backends.HDFBackend layout is written here.
_EMCEE_VERSION = "3.1.6"


@dataclass(frozen=True)
class ExportExtras:
    """The optional content of an export besides draws: LaTeX ``labels`` by flat name (getdist), arrays (netcdf)."""

    labels: Mapping[str, str] = field(default_factory=dict)
    observed_data: Mapping[str, NDArray] = field(default_factory=dict)
    constant_data: Mapping[str, NDArray] = field(default_factory=dict)


def export_dataset(
    posterior_path: Path,
    dataset_id: str,
    engine: str,
    fmt: ExportFormat,
    out: Path,
    extras: ExportExtras | None = None,
) -> tuple[Path, ...]:
    """Write one data set's draws to ``out`` and return the files made.

    ``netcdf`` is ArviZ's ``posterior``, ``sample_stats`` (and ``observed_data``, ``constant_data``), draws
    and weights as stored. ``emcee`` is an HDFBackend whose walkers are the stored chains; weighted draws are
    resampled to equal weights with a fixed seed, and an attribute says so. ``getdist`` is ``out`` (``.txt``
    added if absent: weight, -log posterior or 0 if the engine has none, parameters) and ``.paramnames``;
    weights are kept, the largest scaled to 1.

    Raises
    ------
    InputError
        A file exists at ``out``, the format is unknown, or the data set has no draws of this engine.
    CampaignError
        ``posterior_path`` is missing or damaged.
    """
    if fmt not in get_args(ExportFormat):
        raise InputError(f"unknown export format {fmt!r}; expected one of {', '.join(get_args(ExportFormat))}")
    draws = read_draws(posterior_path, dataset_id, engine)
    extras = extras or ExportExtras()
    if fmt == "netcdf":
        return _publish_new({out: lambda temp: draws_tree(draws, extras).to_netcdf(temp, engine="h5netcdf")})
    if fmt == "emcee":
        return _publish_new({out: lambda temp: _write_emcee(temp, draws)})
    root = out.with_suffix("") if out.suffix == ".txt" else out
    return _publish_new(
        {
            root.with_name(f"{root.name}.txt"): lambda temp: _write_getdist(temp, draws),
            root.with_name(f"{root.name}.paramnames"): lambda temp: _write_paramnames(temp, draws, extras),
        }
    )


def draws_tree(draws: DatasetDraws, extras: ExportExtras | None = None) -> xr.DataTree:
    """Return one data set as ArviZ's groups: ``posterior``, ``sample_stats``, and the arrays of ``extras`` if any.

    Dims ``(chain, draw, <parameter>_dim_0, ...)``. Weighted draws keep their weights in
    ``sample_stats/log_weight``, and the attribute ``weights`` says so.
    """
    extras = extras or ExportExtras()
    attrs = {"dataset_id": draws.dataset_id, "inference_library": draws.engine, "draw_kind": draws.kind}
    if "log_weight" in draws.sample_stats:
        attrs["weights"] = "weighted by exp(sample_stats/log_weight): plain means are biased"
    groups = {
        "posterior": _draws_group(draws.posterior).assign_attrs(attrs),
        "sample_stats": _draws_group(draws.sample_stats).assign_attrs(attrs),
        "observed_data": _plain_group(extras.observed_data),
        "constant_data": _plain_group(extras.constant_data),
    }
    return xr.DataTree.from_dict({name: group for name, group in groups.items() if group.data_vars})


def for_arviz(tree: xr.DataTree) -> Any:
    """Convert for the installed ArviZ: before 1.0 to an ``InferenceData`` with the tree's groups, else return ``tree``.

    Both give ``result.posterior["slope"]`` and ``result["sample_stats"]``.
    """
    version = versions("arviz").get("arviz")
    if version is None or int(version.partition(".")[0]) >= 1:
        return tree
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # ArviZ announces its version 1 in a daily warning
        import arviz
    groups: dict[str, Any] = {name: group.to_dataset() for name, group in tree.children.items()}
    return arviz.InferenceData(**groups)


def _draws_group(arrays: Mapping[str, NDArray]) -> xr.Dataset:
    variables = {
        name: (("chain", "draw", *(f"{name}_dim_{axis}" for axis in range(array.ndim - 2))), array)
        for name, array in arrays.items()
    }
    dataset = xr.Dataset(variables)
    return dataset.assign_coords({dim: np.arange(length) for dim, length in dataset.sizes.items()})


def _plain_group(arrays: Mapping[str, NDArray]) -> xr.Dataset:
    return xr.Dataset(
        {
            name: ([f"{name}_dim_{axis}" for axis in range(np.ndim(array))], np.asarray(array))
            for name, array in arrays.items()
        }
    )


def _write_emcee(path: Path, draws: DatasetDraws) -> None:
    equal = equal_weights(draws)
    chain = np.stack(list(flat_columns(equal.posterior).values()), axis=-1).swapaxes(0, 1).astype(np.float64)
    steps, walkers, ndim = chain.shape
    log_prob = equal.sample_stats.get("lp", np.full((walkers, steps), np.nan)).T
    with h5py.File(path, "w-", locking=False) as file:
        group = file.create_group("mcmc")
        attrs = {"version": _EMCEE_VERSION, "nwalkers": walkers, "ndim": ndim, "iteration": steps}
        for name, value in (attrs | {"has_blobs": False}).items():
            group.attrs[name] = value
        group.attrs["parameters"] = list(flat_columns(equal.posterior))
        group.attrs["dataset_id"] = draws.dataset_id
        group.attrs["engine"] = draws.engine
        if equal is not draws:
            group.attrs["resampled"] = f"weighted draws resampled to equal weights, seed {RESAMPLING_SEED}"
        # The number of accepted proposals between stored draws is not known.
        group.create_dataset("accepted", data=np.full(walkers, np.nan))
        group.create_dataset("chain", data=chain, maxshape=(None, walkers, ndim))
        group.create_dataset("log_prob", data=log_prob.astype(np.float64), maxshape=(None, walkers))


def _write_getdist(path: Path, draws: DatasetDraws) -> None:
    weights = relative_weights(draws)
    minus_log_posterior = -draws.sample_stats.get("lp", np.zeros(weights.shape))
    table = [weights, minus_log_posterior, *flat_columns(draws.posterior).values()]
    rows = np.stack([column.ravel() for column in table], axis=1, dtype=np.float64)
    np.savetxt(path, rows[rows[:, 0] > 0], fmt="%.9g")


def _write_paramnames(path: Path, draws: DatasetDraws, extras: ExportExtras) -> None:
    lines = [f"{name}\t{extras.labels.get(name, name)}\n" for name in flat_columns(draws.posterior)]
    path.write_text("".join(lines), encoding="utf-8")


def _publish_new(writers: Mapping[Path, Callable[[Path], None]]) -> tuple[Path, ...]:
    taken = [str(path) for path in writers if path.exists()]
    if taken:
        raise InputError(f"{', '.join(taken)}: exists already; choose another --out or remove it")
    for path, write in writers.items():
        publish(path, write, _check_not_empty)
    return tuple(writers)


def _check_not_empty(path: Path) -> None:
    if path.stat().st_size == 0:
        raise ChainsweepError(f"{path}: nothing was written; is the disk full?")
