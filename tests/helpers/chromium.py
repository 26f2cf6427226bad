"""A headless Chromium for tests of pages, driven by playwright; without one such tests are skipped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

# Those that distributions and vendors use.
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_chromium() -> str | None:
    """The browser that GENPRM_CHROMIUM names, or the first one on the PATH."""
    return os.environ.get("GENPRM_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def open_chromium() -> Iterator[Browser]:
    """A browser; skips the test where there is none."""
    path = find_chromium()
    if path is None:
        pytest.skip("needs Chromium or Chrome: on the PATH, or named by GENPRM_CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        try:
            yield browser
        finally:
            browser.close()
