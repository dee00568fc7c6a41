"""The page: self-contained, well formed, safe against hostile text, and of a size that does not grow."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from chainsweep.errors import CampaignError, ChainsweepError
from chainsweep.report import build
from chainsweep.report.build import build_report
from chainsweep.report.collect import (
    MAX_DATASETS,
    choose,
    data_view,
    flat_names,
    stack_draws,
    truth_frame,
)
from chainsweep.report.gallery import LIST, dataset_folder, figure_files
from chainsweep.report.pages import DatasetView, EngineView, SweepView, render_report
from tests.unit.report_demo import ENGINES, NAMES, DemoCampaign

WHEN = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


class Links(HTMLParser):
    """Everything a browser could load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.tags: list[str] = []
        self.alts: list[str | None] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.targets += [values[name] for name in ("src", "href", "srcset", "action", "poster") if name in values]
        if tag == "img":
            self.alts.append(values.get("alt"))


def parsed(html: str) -> Links:
    links = Links()
    links.feed(html)
    return links


def empty_table() -> pd.DataFrame:
    return pd.DataFrame(columns=["mean", "sd", "median", "q05", "q95"], dtype=float)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    changes = {"report": {"datasets": ["not-there"], "worst": 1}}
    campaign = DemoCampaign(tmp_path_factory.mktemp("demo"), n=8, config_changes=changes, draws=60)
    page = build_report(campaign, WHEN)
    return campaign, page, page.read_text(encoding="utf-8")


class TestPage:
    def test_is_well_formed(self, demo):
        root = ElementTree.fromstring(demo[2].replace("<!DOCTYPE html>", ""))
        assert root.tag == "html"
        assert root.find("body/main") is not None

    def test_loads_nothing_and_runs_nothing(self, demo):
        links = parsed(demo[2])
        assert "script" not in links.tags
        assert "link" not in links.tags
        assert all(target.startswith(("data:image/", "#")) for target in links.targets)
        assert not re.search(r"url\(|@import|https?://", demo[2])

    def test_hostile_text_is_escaped(self, demo):
        assert "<script>" not in demo[2]
        assert "&lt;script&gt;alert" in demo[2]
        assert "&lt;NaN&gt;" in demo[2]

    def test_causes_are_counted_with_what_to_do(self, demo):
        html = demo[2]
        assert "Causes of what is not converged" in html
        assert '<th scope="row">underflow</th>' in html
        assert "compute with logarithms throughout" in html
        assert "R-hat of m 1.2: raise the budget" in html

    def test_every_picture_has_a_text(self, demo):
        alts = parsed(demo[2]).alts
        assert len(alts) > 15
        assert all(alts)

    def test_sections_and_anchors(self, demo):
        html = demo[2]
        for anchor in ("verdicts", "diagnostics", "recovery", "agreement", "worst", "quarantine", "datasets"):
            assert f'href="#{anchor}"' in html
            assert f'id="{anchor}"' in html
        assert html.count('<details class="dataset"') == 2
        assert html.count('open="open"') == 1
        assert "prefers-color-scheme: dark" in html
        assert 'name="viewport"' in html

    def test_says_who_when_and_what(self, demo):
        for text in (
            "gaussian_peak",
            "2026-01-02 03:04 UTC",
            "9f2c41d07ab3e558",
            "8 data sets",
            "60 quarantined",
        ):
            assert text in demo[2]

    def test_names_the_data_set_that_is_not_there(self, demo):
        assert "not-there" in demo[2]

    def test_tables_are_capped_with_a_count(self, demo):
        assert demo[2].count("windows/w") == 50
        assert "10 more in" in demo[2]

    def test_worst_first(self, demo):
        section = demo[2].split('id="worst"')[1].split("</section>")[0]
        first = re.search(r'rowspan="3">(\d+)<', section)
        assert first is not None
        assert first.group(1) == "00003"
        assert "every start had a log density" in section

    def test_posterior_table(self, demo):
        campaign, _, html = demo
        section = html.split('id="dataset-00000"')[1].split("</details>")[0]
        row = campaign.catalogue().query("dataset_id == '00000' and engine == 'nuts'").iloc[0]
        assert f"{row.mean_l:.3f}".replace("-", "−") in section
        for word in ("5 %", "95 %", "median", "ESS", "τ", "R̂", "k̂", "truth", "line_keV = 911.2"):
            assert word in section

    def test_failed_engine_has_a_reason_and_no_figures(self, demo):
        _, page, _ = demo
        names = [path.name for path in figure_files(page.parent, "00003")]
        assert "trace_nuts.png" not in names
        assert "trace_emcee.png" in names

    def test_figures_are_files_too(self, demo):
        _, page, _ = demo
        names = [path.name for path in figure_files(page.parent, "00000")]
        assert names == sorted(
            [
                "autocorrelation_emcee.svg",
                "autocorrelation_nuts.svg",
                "corner.png",
                "data_emcee.png",
                "data_nuts.png",
                "data_snpe.png",
                "trace_emcee.png",
                "trace_nuts.png",
                "weights_snpe.svg",
            ]
        )
        assert figure_files(page.parent, "unknown") == []
        sweep = {path.name for path in (page.parent / "figures").glob("sweep_*")}
        assert {"sweep_verdicts.svg", "sweep_rhat.svg", "sweep_ess.svg", "sweep_khat.svg"} <= sweep
        assert {"sweep_seconds.svg", "sweep_agreement.svg", "sweep_recovery_00.svg"} <= sweep

    def test_burn_in_is_named_where_it_is_known(self, demo):
        assert "Trace of every parameter of 00000, emcee; burn-in shaded" in demo[2]
        assert "Trace of every parameter of 00000, nuts; burn-in shaded" not in demo[2]


class TestSize:
    def test_does_not_grow_with_the_number_of_data_sets(self, tmp_path, monkeypatch):
        monkeypatch.setattr(build, "choose", lambda *_: ({}, ()))
        small, large = (build_report(DemoCampaign(tmp_path / str(n), n=n), WHEN) for n in (700, 7000))
        assert large.stat().st_size < 1.2 * small.stat().st_size
        assert "6,975 more data sets" in large.read_text(encoding="utf-8")
        assert large.stat().st_size < 1.5e6


class TestBareView:
    """Views by hand: what is missing must not break the page."""

    def view(self, **changes) -> SweepView:
        base = SweepView(
            name="bare",
            campaign_hash="abc",
            created="now",
            versions={},
            engines=("nuts",),
            parameters=("theta[0]",),
            n_datasets=0,
            catalogue=pd.DataFrame({"dataset_id": [], "engine": [], "verdict": []}),
            truth=pd.DataFrame(),
            quarantine=pd.DataFrame(),
            worst=pd.DataFrame(columns=["disagreement"]),
        )
        return replace(base, **changes)

    def test_nothing_at_all(self, tmp_path):
        html = render_report(self.view(), tmp_path).read_text(encoding="utf-8")
        ElementTree.fromstring(html.replace("<!DOCTYPE html>", ""))
        assert "No data set has a verdict yet." in html
        assert "Empty: every data set was accepted." in html
        assert 'href="#recovery"' not in html

    def test_pending_data_sets_are_counted(self, tmp_path):
        html = render_report(self.view(n_datasets=7), tmp_path).read_text(encoding="utf-8")
        assert "7 pending" in html

    def test_twelve_dimensions_one_draw_no_truth(self, tmp_path):
        names = tuple(f"theta[{i}]" for i in range(12))
        one = EngineView("nuts", "not_converged", "one draw", {}, empty_table(), draws=np.ones((1, 1, 12)))
        none = EngineView("snpe", "failed", "<b>no draws</b>", {}, empty_table())
        dataset = DatasetView("a/b c", "first", names, {}, (one, none))
        view = self.view(engines=("nuts", "snpe"), parameters=names, n_datasets=1, datasets=(dataset,))
        html = render_report(view, tmp_path).read_text(encoding="utf-8")
        ElementTree.fromstring(html.replace("<!DOCTYPE html>", ""))
        assert "&lt;b&gt;no draws" in html
        kinds = [path.name for path in figure_files(tmp_path, "a/b c")]
        assert kinds == ["autocorrelation_nuts.svg", "corner.png", "trace_nuts.png"]

    def test_data_set_without_any_draws_has_no_corner(self, tmp_path):
        none = EngineView("nuts", "failed", "no", {}, empty_table())
        view = self.view(datasets=(DatasetView("a", "first", ("theta[0]",), {}, (none,)),))
        render_report(view, tmp_path)
        assert figure_files(tmp_path, "a") == []

    def test_a_second_report_removes_the_figures_of_the_first(self, tmp_path):
        one = EngineView("nuts", "converged", "", {}, empty_table(), draws=np.ones((1, 1, 1)))
        dataset = DatasetView("a", "first", ("theta[0]",), {}, (one,))
        render_report(self.view(datasets=(dataset,)), tmp_path)
        assert figure_files(tmp_path, "a")
        foreign = tmp_path / "figures" / "notes.txt"
        foreign.write_text("mine")
        render_report(self.view(), tmp_path)
        assert not (tmp_path / "figures" / "a").exists()
        assert foreign.exists()
        assert [path.name for path in tmp_path.glob(".index*")] == []

    def with_a_figure(self) -> SweepView:
        one = EngineView("nuts", "converged", "", {}, empty_table(), draws=np.ones((1, 1, 1)))
        return self.view(datasets=(DatasetView("a", "first", ("theta[0]",), {}, (one,)),))

    def test_pictures_that_no_report_listed_stay(self, tmp_path):
        mine = tmp_path / "report" / "figures" / "a" / "mine.png"
        mine.parent.mkdir(parents=True)
        mine.write_text("mine")
        for view in (self.with_a_figure(), self.view(), self.view()):
            render_report(view, tmp_path / "report")
        assert [path.name for path in figure_files(tmp_path / "report", "a")] == ["mine.png"]

    @pytest.mark.parametrize("linked", ["report", "report/figures", "report/figures/a"])
    def test_a_linked_folder_is_refused_and_keeps_its_pictures(self, tmp_path, linked):
        photos = tmp_path / "photos"
        photos.mkdir()
        (photos / "cat.png").write_text("a cat")
        (photos / "corner.png").write_text("mine")
        link = tmp_path / "campaign" / linked
        link.parent.mkdir(parents=True)
        link.symlink_to(photos)
        with pytest.raises(CampaignError, match=rf"{link}: .*link that leads to {photos}.*rm ") as error:
            render_report(self.with_a_figure(), tmp_path / "campaign" / "report")
        assert error.value.exit_code == 65
        assert {path.name: path.read_text() for path in photos.iterdir()} == {"cat.png": "a cat", "corner.png": "mine"}

    @pytest.mark.parametrize("linked", ["index.html", LIST, "figures/a/corner.png"])
    def test_a_linked_file_is_refused_and_what_it_leads_to_stays(self, tmp_path, linked):
        mine = tmp_path / "mine"
        mine.write_text('["figures/mine.png"]')
        link = tmp_path / "report" / linked
        link.parent.mkdir(parents=True)
        link.symlink_to(mine)
        with pytest.raises(CampaignError, match=rf"{link}: .*link that leads to {mine}"):
            render_report(self.with_a_figure(), tmp_path / "report")
        assert mine.read_text() == '["figures/mine.png"]'
        assert not mine.is_symlink()

    @pytest.mark.parametrize(
        "listed", ['["../data.h5"]', '["figures/../../photo.png"]', '["/etc/x.png"]', '{"figures": 1}', "[1]", "["]
    )
    def test_a_list_that_names_other_files_deletes_none(self, tmp_path, listed):
        for name in ("data.h5", "photo.png"):
            (tmp_path / name).write_text("mine")
        (tmp_path / "report").mkdir()
        (tmp_path / "report" / LIST).write_text(listed)
        with pytest.raises(CampaignError, match="remove it"):
            render_report(self.view(), tmp_path / "report")
        assert (tmp_path / "data.h5").exists()
        assert (tmp_path / "photo.png").exists()

    def test_a_campaign_that_is_reached_through_a_link_gets_its_report(self, tmp_path):
        (tmp_path / "mnt" / "campaign").mkdir(parents=True)
        (tmp_path / "scratch").symlink_to("mnt")
        render_report(self.with_a_figure(), tmp_path / "scratch" / "campaign" / "report")
        render_report(self.view(), tmp_path / "scratch" / "campaign" / "report")
        assert (tmp_path / "mnt" / "campaign" / "report" / "index.html").exists()


class TestBuild:
    def test_without_truth_and_curve(self, tmp_path):
        campaign = DemoCampaign(
            tmp_path,
            n=2,
            with_truth=False,
            with_curve=False,
            draws=40,
            config_changes={"report": {"worst": 0}},
        )
        html = build_report(campaign, WHEN).read_text(encoding="utf-8")
        assert 'id="recovery"' not in html
        assert [path.name for path in figure_files(tmp_path / "report", "00000")][3] == "data.png"

    def test_an_engine_without_rows_is_pending(self, tmp_path):
        campaign = DemoCampaign(tmp_path, n=3, draws=40, config_changes={"report": {"worst": 0}})
        table = campaign.catalogue()
        campaign._catalogue = table[table["engine"] != "snpe"]
        html = build_report(campaign, WHEN).read_text(encoding="utf-8")
        assert "3 pending" in html
        assert not any("snpe" in path.name for path in figure_files(tmp_path / "report", "00000"))

    def test_dropped_simulations_are_said_where_there_are_some(self, tmp_path):
        changes = {"report": {"worst": 0}}
        html = build_report(DemoCampaign(tmp_path / "one", n=1, draws=40, config_changes=changes), WHEN)
        assert "dropped" not in html.read_text(encoding="utf-8")
        campaign = DemoCampaign(tmp_path / "two", n=1, draws=40, config_changes=changes, dropped_above=1.0)
        text = build_report(campaign, WHEN).read_text(encoding="utf-8")
        share = campaign.calibration()["dropped"]["share"]
        assert 0.13 < share < 0.19, "P(normal > 1)"
        assert f"{share:.2%} of 2048 simulations are no numbers and were dropped" in text
        assert "depends on l" in text

    def test_choose(self):
        worst = pd.DataFrame(index=["c", "a", "b"])
        chosen, notes = choose(["a", "b", "c"], worst, ["b", "zz"], 2)
        assert chosen == {"a": "first, worst 2", "b": "asked for", "c": "worst 1"}
        assert "zz" in notes[0]
        assert choose([], worst, [], 2) == ({}, ())

    def test_choose_is_capped_and_says_so(self):
        ids = [f"{i:03d}" for i in range(100)]
        chosen, notes = choose(ids, pd.DataFrame(index=ids), ids, 4)
        assert len(chosen) == MAX_DATASETS
        assert "100 data sets were chosen" in notes[0]

    def test_vector_truth_and_draws_follow_the_flat_names(self):
        names = ("theta[0]", "theta[1]", "a")
        frame = truth_frame(["x", "y"], {"a": np.array([np.nan, np.nan]), "theta": np.ones((2, 2))}, names)
        assert list(frame.columns) == ["theta[0]", "theta[1]"]
        draws = stack_draws({"a": np.zeros((2, 5)), "theta": np.arange(20.0).reshape(2, 5, 2)}, names)
        assert draws.shape == (2, 5, 3)
        assert draws[0, 0].tolist() == [0.0, 1.0, 0.0]
        assert flat_names("a", ("a", "ab", "a[0]")) == ["a", "a[0]"]

    def test_draws_of_another_model_are_refused(self):
        with pytest.raises(ChainsweepError, match="theta"):
            stack_draws({"theta": np.zeros((2, 5, 3))}, ("theta[0]", "theta[1]"))
        with pytest.raises(ChainsweepError, match=r"none of b"):
            stack_draws({"a": np.zeros((2, 5))}, ("a", "b"))
        assert stack_draws({"a": np.zeros((2, 0))}, ("a",)).size == 0

    def test_data_view(self, tmp_path):
        config = DemoCampaign(tmp_path, n=1).config
        counts = np.array([0.0, 4.0, 9.0])
        view = data_view({"x": np.arange(3.0), "y": counts}, config)
        assert view.err.tolist() == [1.0, 2.0, 3.0]
        assert view.x_label == "energy (keV)"
        assert data_view({"x": np.arange(3.0), "y": counts + 0.5}, config).err is None
        assert data_view({"x": np.zeros((3, 2)), "y": counts}, config).x_label == "point"
        assert data_view({"x": np.arange(3.0), "y": np.zeros((3, 2))}, config) is None
        given = data_view({"x": np.arange(3.0), "y": counts, "y_err": np.full(3, 0.5)}, config)
        assert given.err.tolist() == [0.5] * 3

    def test_folder_names_are_safe_and_distinct(self):
        assert dataset_folder("w012.a") == "w012.a"
        for hostile in ("../../etc", "a/b", ".", "", "x" * 500, "ä ö", ".hidden"):
            assert re.fullmatch(r"[A-Za-z0-9_-]{1,100}", dataset_folder(hostile))
        assert dataset_folder("a/b") != dataset_folder("a:b")

    def test_demo_matches_its_names(self, tmp_path):
        assert DemoCampaign(tmp_path, n=1).parameter_names == NAMES
        assert set(DemoCampaign(tmp_path, n=2).catalogue()["engine"]) == set(ENGINES)
