"""Settings of the property tests: the same examples every time, and no time limit."""

from __future__ import annotations

from hypothesis import settings

# A slow, shared machine must not fail a test; a fixed seed makes a failed run reproducible.
settings.register_profile("criticalmass", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("criticalmass")
