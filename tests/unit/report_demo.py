"""A synthetic campaign as the report reads it: peaks on a line, three engines, known truths."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.text import Text

from chainsweep.campaign.config import CampaignConfig, parse_config
from chainsweep.diagnostics.calibration import calibration_record, findings
from chainsweep.diagnostics.dropping import Dropping, dependence

ENGINES = ("emcee", "nuts", "snpe")
NAMES = ("l", "m", "s", "a", "b")
SD = np.array([0.08, 0.05, 0.04, 0.05, 0.03])


@dataclass(frozen=True)
class Paths:
    report: Path


@dataclass(frozen=True)
class Collection:
    ids: list[str]
    truths: dict[str, np.ndarray]

    def truth_table(self) -> dict[str, np.ndarray]:
        return self.truths


def peak(x: np.ndarray, theta: np.ndarray) -> np.ndarray:
    height, m, s, a, b = (theta[..., i, None] for i in range(5))
    return height * np.exp(-((m - x) ** 2) / (2 * s**2)) + a + b * x


@dataclass
class DemoCampaign:
    """``n`` data sets; ids, truth and posteriors follow from the seed alone."""

    folder: Path
    n: int = 40
    with_truth: bool = True
    with_curve: bool = True
    config_changes: dict = field(default_factory=dict)
    draws: int = 250
    name: str = "gaussian_peak"
    hash: str = "9f2c41d07ab3e5586f0e"
    parameter_names: tuple[str, ...] = NAMES
    dropped_above: float = np.inf
    """Simulations whose first parameter is above are dropped."""

    def __post_init__(self) -> None:
        rng = np.random.default_rng(5)
        ids = [f"{index:05d}" for index in range(self.n)]
        self.theta = np.column_stack(
            [
                rng.uniform(0.3, 2.0, self.n),
                rng.uniform(0.5, 2.5, self.n),
                rng.uniform(0.1, 0.5, self.n),
                rng.normal(0.0, 1.0, self.n),
                rng.normal(0.0, 0.5, self.n),
            ]
        )
        truths = {name: self.theta[:, i] for i, name in enumerate(NAMES)} if self.with_truth else {}
        self.collection = Collection(ids, truths)
        self.paths = Paths(self.folder / "report")
        self.shift = rng.normal(size=(self.n, 5)) * SD
        self._catalogue = self._make_catalogue(rng)

    @property
    def config(self) -> CampaignConfig:
        raw = {
            "model": {"file": "model.py", "curve": "mu", "x": "x"},
            "data": {"fields": {"x": "energy (keV)", "y": "y", "y_err": "y_err"}},
        }
        return parse_config({**raw, **self.config_changes}, "demo")

    def _make_catalogue(self, rng: np.random.Generator) -> pd.DataFrame:
        parts = []
        for engine in ENGINES:
            n = self.n
            mean = self.theta + self.shift + rng.normal(size=(n, 5)) * SD * 0.03
            bad = rng.random(n) < {"emcee": 0.12, "nuts": 0.06, "snpe": 0.04}[engine]
            rhat = 1 + 10 ** rng.normal(-2.7, 0.2, n)
            rhat[bad] = 1 + 10 ** rng.normal(-0.7, 0.5, bad.sum())
            verdict = np.where(bad, "not_converged", "converged").astype(object)
            columns: dict[str, object] = {"dataset_id": self.collection.ids, "engine": engine, "rung": 0}
            for i, name in enumerate(NAMES):
                columns |= {
                    f"mean_{name}": mean[:, i],
                    f"sd_{name}": np.full(n, SD[i]),
                    f"q05_{name}": mean[:, i] - 1.645 * SD[i],
                    f"q50_{name}": mean[:, i],
                    f"q95_{name}": mean[:, i] + 1.645 * SD[i],
                }
            weighted = engine == "snpe"
            columns |= {
                "rhat_max": np.where(weighted, np.nan, rhat),
                "ess_bulk_min": np.where(bad, 150.0, 10 ** rng.normal(3.2, 0.15, n)),
                "ess_tail_min": np.where(bad, 90.0, 10 ** rng.normal(3.1, 0.15, n)),
                "divergences": np.where(engine == "nuts", np.where(bad, 14.0, 0.0), np.nan),
                "tau_max": 10 ** rng.normal(1.9, 0.1, n) if engine == "emcee" else np.nan,
                "acceptance": np.nan if weighted else rng.uniform(0.3, 0.9, n),
                "khat": np.where(bad, 0.95, rng.uniform(-0.1, 0.68, n)) if weighted else np.nan,
                "is_efficiency": rng.uniform(0.05, 0.7, n) if weighted else np.nan,
                "log_evidence": rng.normal(-30, 3, n) if weighted else np.nan,
                "ppc_pvalue": rng.uniform(0, 1, n),
                "draws": 1000.0,
                "seconds": 10 ** rng.normal({"emcee": 0.4, "nuts": 0.8, "snpe": -0.9}[engine], 0.15, n),
                "attempt": 1,
                "verdict": verdict,
                "cause": np.where(bad, "too_few_draws" if engine == "nuts" else "several_modes", None),
                "hint": np.where(bad, "R-hat of m 1.2: raise the budget", None),
                "reason": np.where(bad, f"R-hat or k-hat above the threshold ({engine})", ""),
            }
            parts.append(pd.DataFrame(columns))
        table = pd.concat(parts, ignore_index=True)
        if self.n > 3:
            self._spoil(table)
        return table

    def _spoil(self, table: pd.DataFrame) -> None:
        """Data set 3 fails in NUTS: no figure but its reason, which is hostile and long."""
        row = (table["engine"] == "nuts") & (table["dataset_id"] == self.collection.ids[3])
        numeric = [c for c in table.columns if c not in ("dataset_id", "engine", "verdict", "reason", "cause", "hint")]
        table.loc[row, numeric] = np.nan
        table.loc[row, "draws"] = 0
        table.loc[row, "verdict"] = "failed"
        table.loc[row, "cause"] = "underflow"
        table.loc[row, "reason"] = (
            "<script>alert('x')</script> every start had a log density of -inf: "
            "the data set's points lie outside the support of the likelihood for all 4,096 prior draws & more"
        )

    def catalogue(self) -> pd.DataFrame:
        return self._catalogue

    def quarantine(self) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "file": [f"windows/w{i:03d}.csv" for i in range(60)],
                "row": [float(i) for i in range(60)],
                "reason": ["non-finite value"] * 60,
                "detail": ["field 'y' holds <NaN> at point 17; remove the point or mask it"] * 60,
            }
        )

    def _rng(self, dataset_id: str, engine: str) -> np.random.Generator:
        return np.random.default_rng([int(dataset_id), ENGINES.index(engine)])

    def _centre(self, dataset_id: str) -> np.ndarray:
        position = self.collection.ids.index(dataset_id)
        return self.theta[position] + self.shift[position]

    def _draw(self, dataset_id: str, engine: str, shape: tuple[int, ...]) -> np.ndarray:
        noise = self._rng(dataset_id, engine).normal(size=(*shape, 5))
        noise[..., 3] = -0.8 * noise[..., 4] + 0.6 * noise[..., 3]
        return self._centre(dataset_id) + noise * SD

    def posterior_arrays(self, dataset_id: str, engine: str) -> dict[str, dict[str, np.ndarray]]:
        chains = {"emcee": 2, "nuts": 4, "snpe": 1}[engine]
        shape = (chains, self.draws * 4 // chains)
        draws = self._draw(dataset_id, engine, shape)
        stats = {"lp": np.zeros(shape)}
        if engine == "snpe":
            log_weight = self._rng(dataset_id, engine).normal(0, 0.7, shape)
            log_weight[:, ::9] = -np.inf
            stats["log_weight"] = log_weight
        return {"posterior": {n: draws[..., i] for i, n in enumerate(NAMES)}, "sample_stats": stats}

    def predictive_curves(self, dataset_id: str, engine: str, n: int) -> tuple[np.ndarray, np.ndarray] | None:
        if not self.with_curve:
            return None
        x = self.dataset(dataset_id)[0]["x"]
        return x, peak(x, self._draw(dataset_id, engine, (n,)))

    def dataset(self, dataset_id: str) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        position = self.collection.ids.index(dataset_id)
        rng = np.random.default_rng(position)
        x = np.sort(rng.uniform(0, 3, 40))
        err = rng.uniform(0.1, 0.2, 40)
        y = peak(x, self.theta[position]) + err * rng.normal(size=40)
        return {"x": x, "y": y, "y_err": err}, {"line_keV": 911.2}

    def truth(self, dataset_id: str) -> dict[str, float]:
        position = self.collection.ids.index(dataset_id)
        return {name: float(values[position]) for name, values in self.collection.truths.items()}

    def calibration(self) -> dict | None:
        rng = np.random.default_rng(0)
        levels = rng.uniform(size=(2048, len(self.parameter_names) + 3))
        rank, (density, tarp, information) = levels[:, :-3], levels[:, -3:].T
        found = findings(self.parameter_names, rank, density, tarp, information)
        parameters = rng.normal(size=(2048, len(self.parameter_names)))
        dropped = parameters[:, 0] > self.dropped_above
        pvalues = dependence(parameters, dropped, (1, 2))
        dropping = Dropping(self.parameter_names, len(dropped), {"NaN": int(dropped.sum())}, pvalues)
        return calibration_record(found, self.config.verdict, dropping)

    def trace(self, dataset_id: str, engine: str) -> tuple[np.ndarray, int, int] | None:
        """Autoregressive walkers that fall from a scattered start; only emcee keeps one."""
        if engine != "emcee":
            return None
        rng = self._rng(dataset_id, engine)
        walkers, steps = 12, 600
        out = np.empty((walkers, steps, 5))
        state = rng.normal(size=(walkers, 5)) * 12
        for step in range(steps):
            state = 0.94 * state + np.sqrt(1 - 0.94**2) * rng.normal(size=state.shape)
            out[:, step] = state
        return self._centre(dataset_id) + out * SD, 120, 10


def texts(figure: Figure) -> str:
    """Everything that is written on a figure, a line each."""
    return "\n".join(text.get_text() for text in figure.findobj(match=Text))
