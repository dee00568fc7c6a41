"""Data set 0 of the worked example: three engines compared with a brute-force reference, as a Markdown table.

    python benchmarks/worked_example.py CAMPAIGN

The reference shares no code with the package: NumPy alone evaluates prior and likelihood, and a heavy-tailed proposal
around the best of many random points is weighed exactly.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.stats import multivariate_t

import chainsweep

PARAMETERS = ("l", "m", "s", "a", "b")
PRIORS = {
    "narrow": np.array([[0, 2], [0, 1], [0, 1], [-1, 1], [0, 1]], float),
    "broad": np.array([[-2, 2], [-2, 2], [0, 2], [-2, 2], [-2, 2]], float),
}
DRAWS = 2_000_000


def log_density(theta, limits, x, y, y_err):
    """Normalised prior times likelihood at ``theta`` ``(draw, 5)``."""
    l, m, s, a, b = theta.T[..., None]  # noqa: E741
    inside = np.all((theta > limits[:, 0]) & (theta < limits[:, 1]), axis=1)
    with np.errstate(all="ignore"):
        mu = l * np.exp(-((x - m) ** 2) / (2 * s**2)) + a + b * x
        chi = (((y - mu) / y_err) ** 2).sum(axis=1)
    norm = -np.log(2 * np.pi * y_err**2).sum() / 2 - np.log(limits[:, 1] - limits[:, 0]).sum()
    return np.where(inside, norm - chi / 2, -np.inf)


def reference(fields, limits, seed=0):
    """Means, sds, log evidence and effective draws by importance sampling."""
    data = (fields["x"], fields["y"], fields["y_err"])
    rng = np.random.default_rng(seed)
    points = rng.uniform(limits[:, 0], limits[:, 1], (200_000, 5))
    order = np.argsort(-log_density(points, limits, *data))[:20]
    starts = [
        minimize(
            lambda t: min(1e6, -log_density(t[None], limits, *data)[0]), points[i], method="Nelder-Mead",
            options={"maxiter": 4000, "xatol": 1e-6, "fatol": 1e-8},
        )
        for i in order
    ]  # fmt: skip
    best = min(starts, key=lambda found: found.fun).x
    scale = np.diag((0.1 * (limits[:, 1] - limits[:, 0])) ** 2)
    for _ in range(12):
        proposal = multivariate_t(best, scale, df=4, seed=rng)
        cloud = proposal.rvs(DRAWS // 10)
        log_weight = log_density(cloud, limits, *data) - proposal.logpdf(cloud)
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        best, scale = weight @ cloud, 1.3 * np.cov(cloud.T, aweights=weight) + 1e-10 * np.eye(5)
    proposal = multivariate_t(best, scale, df=4, seed=rng)
    cloud = proposal.rvs(DRAWS)
    log_weight = log_density(cloud, limits, *data) - proposal.logpdf(cloud)
    top = log_weight.max()
    weight = np.exp(log_weight - top)
    evidence = np.log(weight.mean()) + top
    weight /= weight.sum()
    mean = weight @ cloud
    return mean, np.sqrt(weight @ (cloud - mean) ** 2), evidence, 1 / (weight**2).sum()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("campaign", type=Path)
    campaign = chainsweep.open(parser.parse_args().campaign)
    dataset = campaign.collection.ids[0]
    fields, _ = campaign.dataset(dataset)
    mean, sd, evidence, effective = reference(fields, PRIORS[campaign.config.model.function])
    rows = campaign.catalogue().query("dataset_id == @dataset").set_index("engine")
    print(f"| {dataset} | " + " | ".join(PARAMETERS) + " | log evidence | seconds |")
    print("|---|" + "---|" * (len(PARAMETERS) + 2))
    cells = [f"{m:.4f} ± {s:.4f}" for m, s in zip(mean, sd, strict=True)]
    print(f"| reference (ESS {effective:,.0f}) | " + " | ".join(cells) + f" | {evidence:.3f} | |")
    for engine, row in rows.iterrows():
        cells = [f"{row[f'mean_{p}']:.4f} ± {row[f'sd_{p}']:.4f}" for p in PARAMETERS]
        logz = f"{row['log_evidence']:.3f}" if np.isfinite(row["log_evidence"]) else ""
        print(f"| {engine} | " + " | ".join(cells) + f" | {logz} | {row['seconds']:.1f} |")
        shift = max(abs(row[f"mean_{p}"] - m) / s for p, m, s in zip(PARAMETERS, mean, sd, strict=True))
        ratio = max(abs(row[f"sd_{p}"] / s - 1) for p, s in zip(PARAMETERS, sd, strict=True))
        print(f"| | largest shift {shift:.3f} sd | largest error of an sd {ratio:.1%} | | | | | |")


if __name__ == "__main__":
    main()
