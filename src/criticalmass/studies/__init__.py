"""Studies: the paper's experiments as files, and the commands that combine several steps."""

from __future__ import annotations

from criticalmass.studies.study import study

__all__ = ["study"]
