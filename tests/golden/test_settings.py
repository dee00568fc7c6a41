"""``docs/settings.md`` is what its script makes of the configuration, and no key is without a meaning."""

from __future__ import annotations

import sys

import pytest

from tests.conftest import ROOT


@pytest.fixture
def make_settings(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import make_settings

    yield make_settings
    del sys.modules["make_settings"]


def test_the_page_is_that_of_the_configuration(make_settings):
    written = make_settings.PAGE.read_text(encoding="utf-8")
    assert written == make_settings.page(), "docs/settings.md is old: run make settings"
    assert "| `rhat` | number above 1 | `1.01` | " in written


def test_a_key_without_a_docstring_is_seen(make_settings, monkeypatch):
    """The twin."""
    real = make_settings.docstrings

    def without_one(kind):
        return {key: said for key, said in real(kind).items() if (kind.__name__, key) != ("VerdictSection", "rhat")}

    monkeypatch.setattr(make_settings, "docstrings", without_one)
    with pytest.raises(KeyError, match="rhat"):
        make_settings.page()
