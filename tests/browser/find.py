"""Find a browser: `python -m tests.browser.find` prints its place, or fails where there is none."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def browser() -> str | None:
    """Return the place of a browser: one that is named, the system's, or Playwright's own."""
    named = os.environ.get("CHROMIUM")
    place = named or next((found for name in NAMES if (found := shutil.which(name))), None)
    if place:
        return place
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    with sync_playwright() as player:
        own = player.chromium.executable_path
    return own if Path(own).exists() else None


if __name__ == "__main__":
    sys.stdout.write(f"the page is tested in {browser()}\n" if browser() else "")
    sys.exit(browser() is None)
