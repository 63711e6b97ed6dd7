"""A recipe that trains in a fifth of a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from criticalmass.training.recipe import Recipe, recipe_from

DIGITS = "sklearn:digits?n=100"


def tiny_recipe(**changes: Any) -> Recipe:
    """Return a recipe for 90 digits of 8 pixels; ``changes`` as of `Recipe.with_changes`."""
    recipe = recipe_from(
        {
            "name": "tiny",
            "network": {"width": 4, "neurons": 16, "pixels": 8},
            "data": {"dataset": DIGITS},
            "optimizer": {"batch": 32},
            "epochs": 2,
        },
        "tiny",
    )
    return recipe.with_changes(**changes)


def contents(folder: Path) -> dict[str, bytes]:
    """Return relative path -> bytes of every file of a training folder, without its times."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "timing.json"
    }
