"""The judgement of one block of data sets: its draws give catalogue columns of figures, verdicts, reasons, causes."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from chainsweep.config.sections import VerdictSection
from chainsweep.diagnostics.dropping import BY_DESIGN, culprit
from chainsweep.diagnostics.predictive import predictive_pvalue
from chainsweep.diagnostics.summary import convergence_summary, posterior_summary
from chainsweep.engines.chains import Chains, DrawKind
from chainsweep.engines.registry import ENGINES
from chainsweep.errors import ChainsweepError
from chainsweep.model.batched import BatchedProblem
from chainsweep.model.failing import Failing
from chainsweep.model.problem import Problem
from chainsweep.numerics.arrays import Arrays, Floats, Ints
from chainsweep.numerics.seeds import Seeds
from chainsweep.verdicts.causes import Cause, Finding
from chainsweep.verdicts.density_check import density_causes
from chainsweep.verdicts.evidence import evidence
from chainsweep.verdicts.explain import explained
from chainsweep.verdicts.mode_candidates import check_chains, equal_draws
from chainsweep.verdicts.mode_check import ModeCheck, replaced, unchecked
from chainsweep.verdicts.prior_edge import piled_up
from chainsweep.verdicts.rules import (
    Caused,
    Check,
    Verdict,
    checks_of,
    ensemble_rules,
    likelihood_free_rules,
    markov_rules,
    mode_rules,
    verdicts,
    weighted_rules,
)

PREDICTIVE_DRAWS = 500
"""The number of posterior draws of one data set that the predictive check simulates from."""
PROBES = 8
"""The number of data sets that are tried by themselves first if a larger block raises an error; if all of them raise
it, the data are not the cause."""


def judge_each(
    chains: Chains, batched: BatchedProblem, limits: VerdictSection, seeds: Seeds
) -> tuple[Chains, dict[str, Any]]:
    """Judge a block of data sets as ``judge`` does; a data set on which a check raises fails, without the others.

    Return the chains, in which such a data set has no draws any more, and the columns. The error is raised again if
    every one of several data sets fails, because the data are not the cause then.
    """
    try:
        return chains, judge(chains, batched, limits, seeds)
    except (ChainsweepError, MemoryError):
        raise
    except Exception:
        traceback.print_exc()
        count = len(batched.batch)
        first = probes(count)
        reasons = _raised_each(chains, batched, first, limits, seeds)
        if len(reasons) == PROBES < count:
            raise
        reasons |= _raised_each(chains, batched, np.setdiff1d(np.arange(count), first), limits, seeds)
        if not reasons or 1 < count == len(reasons):
            raise
    n_draws = np.where(np.isin(np.arange(len(chains.n_draws)), list(reasons)), 0, chains.n_draws)
    left = replace(chains, n_draws=n_draws, failures={**chains.failures, **reasons})
    return left, judge(left, batched, limits, seeds)


def probes(count: int) -> Ints:
    """Return the positions of at most ``PROBES`` data sets, spread over ``count``."""
    return np.unique(np.linspace(0, count - 1, PROBES).round().astype(np.int64))


def _raised_each(
    chains: Chains, batched: BatchedProblem, rows: Ints, limits: VerdictSection, seeds: Seeds
) -> dict[int, str]:
    """Return the errors that a check raises on data sets by themselves, by row."""
    raised = {row: _raised_alone(chains, batched, row, limits, seeds) for row in rows.tolist()}
    return {row: reason for row, reason in raised.items() if reason is not None}


def _raised_alone(
    chains: Chains, batched: BatchedProblem, row: int, limits: VerdictSection, seeds: Seeds
) -> str | None:
    """Return the error that a check raises on one data set by itself; None if there is no error."""
    alone = np.array([row])
    try:
        judge(chains.take(alone), batched.take(alone), limits, seeds)
    except (ChainsweepError, MemoryError):
        raise
    except Exception as error:
        return f"{Failing.CHECK_RAISED}{type(error).__name__}: {error}"
    return None


def judge(chains: Chains, batched: BatchedProblem, limits: VerdictSection, seeds: Seeds) -> dict[str, Any]:
    """Return the catalogue columns of a block of data sets, each ``(dataset,)``, NaN for null.

    Weighted draws get the mode check too: weights are exact, but neither k-hat nor R-hat shows a mode without draws.
    """
    problem = batched.problem
    weights = chains.sample_stats.get("log_weight")
    figures: dict[str, Any] = _summary_columns(problem.names, posterior_summary(chains.theta, chains.n_draws, weights))
    measured, held = _KINDS[chains.kind](chains, problem, limits)
    figures |= measured
    if not problem.has_likelihood:
        held = checks_of(likelihood_free_rules(limits), [figures["miscalibration"], figures["ood_pvalue"]])
    checks: list[Check | Caused] = [*held]
    conclusive = np.ones(len(batched.batch), bool)
    dropped_by = _info(chains, "dropped_by")
    unknown = np.isfinite(dropped_by)
    if problem.has_likelihood:
        effective = figures["ess_weighted" if chains.kind is DrawKind.WEIGHTED else "ess_bulk_min"]
        undefined, outside = _against_density(chains, batched, effective, seeds, limits)
        checks = [Caused(undefined, len(batched.batch)), *checks]
        figures |= {"mode_shift": outside.shift, "mass_outside": outside.mass_outside, "check_khat": outside.khat}
        # If the mode check is inconclusive, all of these pass.
        checks += checks_of(
            mode_rules(limits), [outside.significant_shift, outside.significant_mass, outside.significant_spread]
        )
        if limits.inconclusive == "not_converged":
            checks.append(Caused(_unproven(outside), len(batched.batch)))
        conclusive = outside.conclusive
        unknown &= ~conclusive
    share = _info(chains, "dropped_share")
    dropped = {i: _dropped(batched, int(dropped_by[i]), share[i]) for i in np.flatnonzero(unknown).tolist()}
    checks = [Caused(dropped, len(batched.batch)), *checks]
    figures["ppc_pvalue"] = _predictive(chains, batched, seeds)
    failures = {**batched.failures, **chains.failures}
    labels, reasons = verdicts(checks, failures)
    misfit = figures["ppc_pvalue"] < limits.min_ppc_pvalue
    ood = figures.get("ood_pvalue", np.full(len(misfit), np.nan)) < limits.min_ood_pvalue
    flags = {"misfit": misfit, "unlike_simulations": ood, "mode_check_inconclusive": ~conclusive}
    flags["simulations_dropped"] = np.isfinite(dropped_by)
    edges = piled_up(batched, chains, seeds)
    flags["prior_edge"] = np.isin(np.arange(len(misfit)), list(edges))
    seen = evidence(batched, chains, [i for i, label in enumerate(labels) if label != Verdict.CONVERGED], seeds)
    for i, found in seen.items():
        if i not in failures:
            found |= _flagged(figures, i, {"misfit": misfit[i], "unlike": ood[i]}, edges.get(i))
    causes, hints = explained(checks, failures, seen, _budget(seeds.engine))
    figures["flags"] = [" ".join(name for name in flags if flags[name][i]) for i in range(len(misfit))]
    figures["draws"] = chains.n_draws * chains.theta.shape[1]
    figures["seconds"] = _info(chains, "seconds")
    return {
        "dataset_id": list(batched.batch.ids),
        "engine": [seeds.engine] * len(labels),
        "verdict": labels,
        "reason": reasons,
        "cause": causes,
        "hint": hints,
        "edge": [edges.get(i, "") for i in range(len(labels))],
        "rung": np.full(len(labels), np.nan),
        **figures,
    }


def _against_density(
    chains: Chains, batched: BatchedProblem, effective: Floats, seeds: Seeds, limits: VerdictSection
) -> tuple[dict[int, Finding], ModeCheck]:
    """Return the findings of the density check by position, and the mode check; both are empty without draws."""
    drawn = np.flatnonzero(chains.n_draws > 0)
    if drawn.size == len(batched.batch):
        return density_causes(batched, chains, seeds), check_chains(batched, chains, effective, seeds, limits)
    if not drawn.size:
        return {}, unchecked(len(batched.batch))
    some, theirs = batched.take(drawn), chains.take(drawn)
    causes, check = density_causes(some, theirs, seeds), check_chains(some, theirs, effective[drawn], seeds, limits)
    batched.failures.update({int(drawn[i]): reason for i, reason in some.failures.items()})
    whole = replaced(unchecked(len(batched.batch)), check, drawn)
    return {int(drawn[i]): cause for i, cause in causes.items()}, whole


def _summary_columns(names: tuple[str, ...], summary: Mapping[str, Floats]) -> Arrays:
    return {f"{what}_{name}": table[:, k] for what, table in summary.items() for k, name in enumerate(names)}


def _info(chains: Chains, name: str) -> Floats:
    """Return a figure of each data set ``(dataset,)`` or ``(dataset, chain)``; NaN where the engine itself failed."""
    return np.asarray(chains.info.get(name, np.full(len(chains.n_draws), np.nan)), float)


def _per_chain(chains: Chains, name: str) -> Floats:
    """Return a figure as ``(dataset, chain)``, with one chain if there is one figure per data set."""
    values = _info(chains, name)
    return values if values.ndim > 1 else values[:, None]


def _worst(values: Floats, largest: bool) -> tuple[Floats, Ints]:
    """Return the worst of ``(dataset, parameter)`` and its column, ``(dataset,)`` each; NaN if any figure is NaN."""
    worst = np.where(np.isnan(values), np.inf, values if largest else -values).argmax(axis=1)
    return values[np.arange(len(values)), worst], worst


def _names(names: Sequence[str], columns: Ints) -> list[str]:
    return [names[column] for column in columns.tolist()]


def _markov(chains: Chains, problem: Problem, limits: VerdictSection) -> tuple[Arrays, list[Check]]:
    convergence = convergence_summary(chains.theta[..., problem.varying], chains.n_draws)
    varying = [problem.names[column] for column in problem.varying]
    rhat, rhat_of = _worst(convergence["rhat"], largest=True)
    bulk, bulk_of = _worst(convergence["ess_bulk"], largest=False)
    tail, tail_of = _worst(convergence["ess_tail"], largest=False)
    of = {"R-hat": rhat_of, "bulk ESS": bulk_of, "tail ESS": tail_of}
    diverging = chains.sample_stats.get("diverging", np.zeros((len(chains.theta), 1, 1)))
    divergences = np.where(chains.n_draws > 0, np.nansum(diverging, axis=(1, 2)), np.nan)
    figures = {
        "rhat_max": rhat,
        "ess_bulk_min": bulk,
        "ess_tail_min": tail,
        "divergences": divergences,
        "acceptance": _per_chain(chains, "acceptance").mean(axis=1),
        "step_size": _per_chain(chains, "step_size").mean(axis=1),
        "tree_depth_hits": _per_chain(chains, "tree_depth_hits").sum(axis=1),
        "gradients": _per_chain(chains, "gradients").sum(axis=1),
        "attempts": _info(chains, "attempts"),
        "lanes": _info(chains, "lanes"),
        "precision_bits": _info(chains, "precision_bits"),
    }
    worst = {figure: _names(varying, columns) for figure, columns in of.items()}
    return figures, checks_of(markov_rules(limits), [rhat, bulk, tail, divergences], worst)


def _ensemble(chains: Chains, problem: Problem, limits: VerdictSection) -> tuple[Arrays, list[Check]]:
    figures = {
        "rhat_max": _info(chains, "rhat_max"),
        "ess_bulk_min": _info(chains, "ess_kept" if "ess_kept" in chains.info else "ess_min"),
        "tau_max": _info(chains, "tau_max"),
        "acceptance": _per_chain(chains, "acceptance").mean(axis=1),
        "steps": _info(chains, "n_steps"),
        "burn_in": _info(chains, "burn_in"),
    }
    tau = _per_chain(chains, "tau")
    # The space in which walkers moved may differ from that of the named parameters.
    slowest = _names(problem.names, _worst(tau, largest=True)[1]) if tau.shape[1] == problem.ndim else []
    # Ensembles are long enough by all of their steps; the figure is of the draws that are kept.
    lengths = [_info(chains, "kept_over_tau"), _info(chains, "ess_min")]
    rules = ensemble_rules(limits)
    worst = {"autocorrelation times": slowest, "ESS": slowest}
    return figures, checks_of(rules, [figures["rhat_max"], *lengths], worst)


def _weighted(chains: Chains, problem: Problem, limits: VerdictSection) -> tuple[Arrays, list[Check]]:
    weighing = ("khat", "is_efficiency", "log_evidence", "log_evidence_se", "proposal_efficiency")
    names = (*weighing, "ood_distance", "ood_pvalue", "miscalibration")
    figures = {name: _info(chains, name) for name in names}
    figures["ess_weighted"] = _info(chains, "ess")
    figures["rounds"] = _info(chains, "rounds")
    return figures, checks_of(weighted_rules(limits), [figures["khat"], figures["ess_weighted"]])


_KINDS = {DrawKind.MARKOV: _markov, DrawKind.ENSEMBLE: _ensemble, DrawKind.WEIGHTED: _weighted}


def _dropped(batched: BatchedProblem, by: int, share: float) -> Finding:
    """Return why draws of a network trained on a part of its simulations are not a posterior."""
    told = f"{share:.1%} of the network's simulations are no numbers and were dropped"
    if by == BY_DESIGN:
        return Finding(Cause.SIMULATIONS_DROPPED, f"{told}, all of those of this data set's design among them", told)
    left = "and no likelihood tells" if not batched.problem.has_likelihood else "and the mode check cannot tell"
    by_what = culprit(batched.problem.unconstrained_columns, by)
    sentence = f"{told}, which ones depends on {by_what}, {left} what mass lies there"
    return Finding(Cause.SIMULATIONS_DROPPED, sentence, f"{told}, depending on {by_what}")


def _unproven(check: ModeCheck) -> dict[int, Finding]:
    """Return what the mode check says of the data sets that it is inconclusive on."""
    cause = Cause.MODE_CHECK_INCONCLUSIVE
    return {i: Finding(cause, told, told.partition(" (limits")[0]) for i, told in check.unproven().items()}


def _flagged(figures: Mapping[str, Any], i: int, holds: Mapping[str, bool], edge: str | None) -> dict[Cause, str]:
    """Return the causes that flags of data set ``i`` give evidence of, with their figures."""
    found = {} if edge is None else {Cause.PRIOR_EDGE: edge}
    if holds["misfit"]:
        found[Cause.MISFIT] = f"posterior predictive p-value {figures['ppc_pvalue'][i]:.2g}"
    if holds["unlike"]:
        found[Cause.UNLIKE_TRAINING] = f"simulations as far out of distribution {figures['ood_pvalue'][i]:.2g}"
    return found


def _budget(engine: str) -> str:
    """Return the setting of an engine that allows more draws, with its table."""
    entry = ENGINES.get(engine)
    return f"[engines.{engine}] {entry.budget}" if entry is not None and entry.budget else "the engine's budget"


def _predictive(chains: Chains, batched: BatchedProblem, seeds: Seeds) -> Floats:
    """Return posterior predictive p-values ``(dataset,)``; NaN where the model cannot simulate or has no likelihood."""
    problem = batched.problem
    if not (problem.has_simulator and problem.has_likelihood):
        return np.full(len(batched.batch), np.nan)
    points = equal_draws(chains, chains.theta, batched.batch.ids, PREDICTIVE_DRAWS, seeds, "predictive")
    usable = np.isfinite(points).all(axis=2)
    keys = seeds.jax_keys(batched.batch.ids, "predictive", 1)[:, 0]
    fallback = np.nan_to_num(points)
    replica, real = batched.predictive_pair(keys, fallback)
    return predictive_pvalue(np.where(usable, replica, np.nan), np.where(usable, real, np.nan))
