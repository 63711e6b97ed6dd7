"""Download a dataset with torchvision, in a process of its own.

``python -m criticalmass.extraction.datasets.torchvision_download NAME ROOT [ARGUMENTS]`` downloads
the dataset of the class ``torchvision.datasets.NAME`` into the folder ROOT. ARGUMENTS is a JSON
object with the other arguments of the class. A connection without data for ``STALL_SECONDS``
seconds ends the download.
"""

from __future__ import annotations

import json
import socket
import sys

from criticalmass.extraction.models.optional_imports import import_torchvision

STALL_SECONDS = 60


def main(arguments: list[str]) -> None:
    """Download the dataset that the command-line arguments name."""
    name, root, *rest = arguments
    keywords = json.loads(rest[0]) if rest else {}
    socket.setdefaulttimeout(STALL_SECONDS)
    getattr(import_torchvision().datasets, name)(root, download=True, **keywords)


if __name__ == "__main__":
    main(sys.argv[1:])
