"""The token that a Ray cluster may ask for.

Ray sends one only if ``RAY_AUTH_MODE`` says so, even where the token lies in its usual place; a
cluster that asks for it then answers nothing, and Ray tries again for twenty seconds. So the
cluster is asked first, by another process: Ray reads the variable once, when it is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys

from criticalmass.errors import CriticalMassError

_MODE = "RAY_AUTH_MODE"
_ASK = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1])
except AuthenticationError:
    sys.exit(3)
"""
_REFUSED = 3
_SECONDS = 30.0


def settle_token(address: str) -> None:
    """Send this machine's token if the cluster at HOST:PORT asks for one.

    To be called before Ray is imported. What cannot be found out is left to Ray.

    Raises
    ------
    CriticalMassError: the cluster asks for a token, and none is here, or another one.
    """
    if _answer(address) != _REFUSED:
        return
    if not os.environ.get(_MODE) and _answer(address, mode="token") == 0:
        os.environ[_MODE] = "token"
        return
    raise without_token(address)


def without_token(address: str | None) -> CriticalMassError:
    """Return the error that says where a cluster's token belongs."""
    told = os.environ.get(_MODE, "")
    also = f", and leave out {_MODE}={told}" if told not in ("", "token") else ""
    return CriticalMassError(
        f"the Ray cluster at {address!r} asks for a token, and this machine has none, or another; "
        "put that of its first machine ('ray get-auth-token' prints it there) into RAY_AUTH_TOKEN "
        f"or the file ~/.ray/auth_token{also}"
    )


def _answer(address: str, mode: str | None = None) -> int | None:
    """Return how a client with these settings ends: 0 if it is let in; None: it does not."""
    environment = os.environ if mode is None else os.environ | {_MODE: mode}
    command = [sys.executable, "-P", "-c", _ASK, address]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.returncode
