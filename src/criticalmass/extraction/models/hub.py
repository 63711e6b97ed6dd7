"""The Hugging Face hub where there is none: quick to notice, and left alone for local files."""

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
    """Keep the hub's client from the network: files come from the disk or not at all.

    The client reads its environment variable only once, when it is imported, so its constant is
    set as well.
    """
    constants = _constants()
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
def hub() -> Iterator[None]:
    """Use the hub if it can be reached, else only what was downloaded before.

    Without this the client tries each file again and again for about a minute.
    """
    if reachable():
        yield
    else:
        with offline():
            yield


def _constants() -> Any:
    return import_package("huggingface_hub.constants", "text")


def reachable() -> bool:
    """Tell whether the hub takes a connection (taken for granted behind a proxy)."""
    constants = _constants()
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
