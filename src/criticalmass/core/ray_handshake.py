"""Connect to a Ray cluster in a process of its own and report whether it accepts our token.

``python -m criticalmass.core.ray_handshake HOST:PORT`` exits with 0 if the cluster accepts the
connection and with ``REFUSED`` if it asks for a token that this process does not have. It exits
with another status if it cannot connect.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

REFUSED = 3
"""Exit status of a connection that the cluster refused."""


def main(arguments: list[str]) -> int:
    """Connect to the address ``HOST:PORT`` in ``arguments``; return the exit status."""
    from ray.exceptions import AuthenticationError

    raylet: Any = importlib.import_module("ray._raylet")
    (address,) = arguments
    try:
        raylet.GcsClient(address=address)
    except AuthenticationError:
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
