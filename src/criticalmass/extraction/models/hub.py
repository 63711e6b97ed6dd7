"""The Hugging Face hub: a quick check for a connection, and offline use of local files."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from criticalmass.core.optional import import_package

CONNECT_SECONDS = 5.0
_PROXIES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


@contextmanager
def offline() -> Iterator[None]:
    """Keep the hub's client from using the network; it then reads local files only.

    The client reads its environment variable only when it is imported, so its constant is set as
    well.
    """
    constants = _hub_constants()
    before = os.environ.get("HF_HUB_OFFLINE"), constants.HF_HUB_OFFLINE
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before[1]
        if before[0] is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before[0]


@contextmanager
def hub_or_cache() -> Iterator[None]:
    """Use the hub if it can be reached, otherwise only files that were downloaded before.

    Without this check the client retries each file for about a minute.
    """
    if is_hub_reachable():
        yield
    else:
        with offline():
            yield


def _hub_constants() -> Any:
    return import_package("huggingface_hub.constants", "text")


def is_hub_reachable() -> bool:
    """Whether the hub accepts a connection; behind a proxy this is assumed."""
    constants = _hub_constants()
    if constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(name) for name in _PROXIES):
        return True
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname, port), CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


@contextmanager
def progress_bars_hidden() -> Iterator[None]:
    """Keep transformers from drawing its own progress bars."""
    logging = import_package("transformers", "text").utils.logging
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()
