"""Fixtures for the page."""

from __future__ import annotations

import pytest


@pytest.fixture
def real_pdfs() -> None:
    """Let the page of a test hold its real PDF files."""


@pytest.fixture(autouse=True)
def short_pdfs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the PDF files of figures out: their fonts take half the time of a page."""
    if "real_pdfs" not in request.fixturenames:
        monkeypatch.setattr("criticalmass.reporting.figures.draw.as_pdf", lambda figure: b"%PDF")
