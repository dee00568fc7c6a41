"""Make the data of the worked example: one CSV a data set and a manifest with the true parameters.

    python make_data.py --out data

Data set 0 has the truth (l, m, s, a, b) = (1, 0.5, 0.1, -0.1, 0.4); 31 more are drawn around it.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

PARAMETERS = ("l", "m", "s", "a", "b")
CENTRE = np.array([1.0, 0.5, 0.1, -0.1, 0.4])
SCATTER = np.array([0.2, 0.1, 0.25, 0.15, 0.1])
"""Standard deviations around the centre; of ``s`` in its logarithm."""
LIMITS = np.array([[0.3, 1.8], [0.15, 0.85], [0.04, 0.3], [-0.8, 0.8], [0.05, 0.95]])


def draw_truth(rng, count):
    """Parameters of ``count`` data sets, ``(data set, parameter)``; the first is the centre itself."""
    truth = CENTRE + SCATTER * rng.standard_normal((count, 5))
    truth[:, 2] = CENTRE[2] * np.exp(SCATTER[2] * rng.standard_normal(count))
    truth = np.clip(truth, LIMITS[:, 0], LIMITS[:, 1])
    truth[0] = CENTRE
    return truth


def draw_points(rng, truth, points):
    """One data set: sorted ``x`` in [0, 1], errors in [0.05, 0.25] and ``y``."""
    l, m, s, a, b = truth  # noqa: E741
    x = np.sort(rng.uniform(0, 1, points))
    y_err = rng.uniform(0.05, 0.25, points)
    mu = l * np.exp(-((x - m) ** 2) / (2 * s**2)) + a + b * x
    return x, mu + y_err * rng.standard_normal(points), y_err


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--points", type=int, default=40)
    parser.add_argument("--seed", type=int, default=2026)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(arguments.seed)
    truth = draw_truth(rng, arguments.count)
    with (arguments.out / "manifest.csv").open("w", newline="") as handle:
        manifest = csv.writer(handle)
        manifest.writerow(["id", "file", *(f"truth_{name}" for name in PARAMETERS)])
        for number, parameters in enumerate(truth):
            name = f"peak-{number:03d}"
            points = np.column_stack(draw_points(rng, parameters, arguments.points))
            np.savetxt(arguments.out / f"{name}.csv", points, "%.6f", delimiter=",", header="x,y,y_err", comments="")
            manifest.writerow([name, f"{name}.csv", *(f"{value:.6f}" for value in parameters)])


if __name__ == "__main__":
    main()
