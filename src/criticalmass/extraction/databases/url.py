"""The address of a database, and the same address without passwords and keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from criticalmass.errors import CriticalMassError, DataUnavailableError
from criticalmass.extraction.specs import missing_path

# More than one letter: a single one is a drive of Windows.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?=.)")
_SECRETS = ("password", "passwd", "sslpassword", "api_key", "apikey", "api-key", "key", "token")
_HIDDEN = "***"
#: Schemes whose address names a user; in the others it is a key.
_WITH_USERS = ("postgresql", "postgres")


@dataclass(frozen=True)
class DatabaseUrl:
    """The address of a database.

    Attributes
    ----------
    scheme: the part before the colon, in lower case.
    text: the address as the user wrote it, with its secrets; never shown.
    shown: the address without its secrets, for messages and manifests.
    secrets: passwords and keys in the address.
    """

    scheme: str
    text: str = field(repr=False)
    shown: str
    secrets: tuple[str, ...] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> DatabaseUrl:
        """Split an address into its scheme, its secrets and what may be shown."""
        scheme = text.partition(":")[0].lower()
        secrets: list[str] = []
        head, rest = text[: len(scheme) + 1], text[len(scheme) + 1 :]
        # ``qdrant:https://key@host`` has a second scheme.
        inner = re.match(r"[A-Za-z]+:(?=//)", rest)
        if inner:
            head, rest = head + inner[0], rest[inner.end() :]
        if rest.startswith("//"):
            parts = urlsplit(rest)
            user, mark, host = parts.netloc.rpartition("@")
            name, colon, password = user.partition(":")
            if colon:
                secrets += [password, unquote(password)]
                user = name
            elif mark and scheme not in _WITH_USERS:
                secrets += [user, unquote(user)]
                user = _HIDDEN
            rest = urlunsplit(parts._replace(netloc=f"{user}{mark}{host}"))
            rest = rest if rest.startswith("//") else f"//{rest}"
        rest, hidden = _without_secret_options(rest)
        secrets += hidden
        return cls(scheme, text, head + rest, tuple(filter(None, secrets)))

    @property
    def location(self) -> str:
        """The part after the scheme, with its secrets."""
        return self.text.partition(":")[2]

    @property
    def is_remote(self) -> bool:
        """Whether the part after the scheme is the address of a server."""
        parts = urlsplit(self.location)
        return parts.scheme in ("", "http", "https", "tcp") and parts.netloc != ""

    def options(self) -> dict[str, str]:
        """Return the ``key=value`` pairs after the question mark."""
        return dict(parse_qsl(self.location.partition("?")[2]))

    def server(self) -> str:
        """Return the address of a server without user, key and options."""
        parts = urlsplit(self.location)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme or "http", host, parts.path, "", ""))

    def secret(self) -> str | None:
        """Return the password or key in the address, if it has one."""
        return unquote(self.secrets[-1]) if self.secrets else None

    def existing_path(self, kind: str) -> Path:
        """Return the file or folder of a database that lies in one.

        ``sqlite:items.db``, ``sqlite:///items.db`` and ``sqlite:////absolute/items.db`` are read as
        SQLAlchemy reads them; a path that exists as it stands goes first.

        Parameters
        ----------
        kind: ``"file"`` or ``"folder"``.

        Raises
        ------
        CriticalMassError: no such file or folder.
        """
        text = self.location.partition("?")[0]
        choices = [Path(text)]
        if text.startswith("//"):
            choices = [Path(text[2:]), Path(text[3:] or "/")]
        for path in choices:
            if path.is_dir() if kind == "folder" else path.is_file():
                return path
        raise missing_path(choices[-1], kind)

    def redact(self, text: object) -> str:
        """Return a text in one line in which no secret of the address occurs."""
        line = " ".join(str(text).split())
        for secret in {*self.secrets, *(quote(secret) for secret in self.secrets)}:
            line = line.replace(secret, _HIDDEN)
        return line

    @contextmanager
    def errors(self, *kinds: type[Exception], doing: str = "") -> Iterator[None]:
        """Turn errors of a client into an error in one line, without the secrets.

        Parameters
        ----------
        kinds: the exceptions of the client.
        doing: what failed, after the address: "table 'items'".
        """
        try:
            yield
        except CriticalMassError:
            raise
        except kinds as error:
            # Not "from error": the texts and values of clients may hold the secrets.
            where = f"{self.shown}{f', {doing}' if doing else ''}"
            reason = self.redact(error) or type(error).__name__
            raise DataUnavailableError(f"{where}: {reason}") from None


def _without_secret_options(text: str) -> tuple[str, list[str]]:
    base, mark, query = text.partition("?")
    if not mark:
        return text, []
    pairs = parse_qsl(query, keep_blank_values=True)
    secrets = [value for name, value in pairs if name.lower() in _SECRETS]
    if not secrets:
        return text, []
    shown = [(name, value) for name, value in pairs if name.lower() not in _SECRETS]
    raw = [quote(secret) for secret in secrets]
    return base + (f"?{urlencode(shown, safe='/:')}" if shown else ""), raw + secrets


def scheme_of(text: str) -> str | None:
    """Return the scheme of an address, in lower case; None for a path."""
    match = _SCHEME.match(text)
    return match[1].lower() if match else None
