"""Find a browser: `python -m tests.browser.find` prints its path, or fails if there is none."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def browser() -> str | None:
    """Return the path of a browser: that in CHROMIUM, the system's, or Playwright's own."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path:
        return path
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    with sync_playwright() as player:
        path = player.chromium.executable_path
    return path if Path(path).exists() else None


if __name__ == "__main__":
    sys.stdout.write(f"the page is tested in {browser()}\n" if browser() else "")
    sys.exit(browser() is None)
