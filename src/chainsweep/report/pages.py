"""The pages of the report: one self-contained HTML page, and each of its figures as a file."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from chainsweep.publish import write_below
from chainsweep.report import formatting, sections
from chainsweep.report.dataset_section import POSTERIOR_COLUMNS
from chainsweep.report.drawing import Drawing, drawing
from chainsweep.report.gallery import Gallery
from chainsweep.report.style import ENGINE_COLOURS, INK, VERDICT_COLOURS, VERDICTS
from chainsweep.report.views import DatasetView, DataView, EngineView, SweepView, Thresholds, TraceView

__all__ = [
    "DataView",
    "DatasetView",
    "EngineView",
    "SweepView",
    "Thresholds",
    "TraceView",
    "render_report",
    "write_report",
]


def render_report(view: SweepView, out_dir: Path) -> Path:
    """Draw the sections of the data sets of ``view``, and write the report as ``write_report`` does."""
    with drawing(len(view.datasets), view.thresholds) as drawn:
        for dataset in view.datasets:
            drawn.begin(dataset)
        return write_report(view, out_dir, drawn)


def write_report(view: SweepView, out_dir: Path, drawn: Drawing) -> Path:
    """Write ``out_dir/index.html`` and ``out_dir/figures/...``; return the path of the page.

    ``drawn`` has the sections of the data sets.

    The page embeds its figures, loads nothing and runs no script; text is escaped. Figures that an earlier report
    listed and this one does not draw are removed. The page is replaced only when everything else is written.

    Raises
    ------
    CampaignError
        The folder, or a file or folder in it that is to be written, is a link.
    """
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    gallery = Gallery(out_dir)
    gallery.check()
    environment = Environment(
        loader=PackageLoader("chainsweep.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=formatting.count, number=formatting.number, words=lambda value: str(value).replace("_", " ")
    )
    at_least_one, by_all = sections.converged_by_engines(view)
    diagnostics = sections.diagnostics_pictures(view, gallery)[1:]
    recovery = sections.recovery_pictures(view, gallery)
    agreement = sections.agreement_pictures(view, gallery)
    datasets = drawn.sections()
    for section in datasets:
        for picture in section.pictures:
            gallery.add(picture)
    html = environment.get_template("report.html.j2").render(
        view=view,
        counts=sections.verdict_counts(view),
        causes=sections.cause_rows(view),
        verdicts=VERDICTS,
        verdict_colours=VERDICT_COLOURS,
        engine_colours={name: ENGINE_COLOURS.get(name, INK) for name in view.engines},
        at_least_one=at_least_one,
        by_all=by_all,
        percent=formatting.percent,
        diagnostics=diagnostics,
        recovery=recovery,
        recovery_left_out=sections.recovery_left_out(view),
        agreement=agreement,
        worst=sections.worst_rows(view),
        worst_columns=sections.WORST_FIGURES,
        worst_left_out=max(len(view.worst) - sections.MAX_WORST, 0),
        quarantine=sections.quarantine_table(view.quarantine),
        datasets=datasets,
        posterior_columns=POSTERIOR_COLUMNS,
    )
    gallery.remove_stale()
    page = out_dir / "index.html"
    write_below(gallery.root, page, html.encode())
    return page
