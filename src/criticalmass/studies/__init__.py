"""The paper's experiments as files that one can run, and what became of those that run here."""

from __future__ import annotations

from criticalmass.studies.study import study

__all__ = ["study"]
