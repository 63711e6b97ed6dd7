"""Recipes: keys, digests, and those of the package."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from tests.training.tiny import tiny_recipe

from criticalmass.cli.catalogue import listing
from criticalmass.errors import CriticalMassError
from criticalmass.training.objectives import OBJECTIVES
from criticalmass.training.recipe import load_recipe, recipe_from, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_of_the_package_are_valid_and_described(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert dict(listing("recipes").to_numpy())[name] == recipe.description


def test_objectives_are_listed() -> None:
    assert listing("objectives")["objective"].tolist() == list(OBJECTIVES)


def test_a_recipe_is_its_keys_and_names_change_nothing() -> None:
    recipe = tiny_recipe(
        objectives=["mse", {"decov": {"weight": 0.5}}], data={"labels": [[0], [1]]}
    )
    again = recipe_from(recipe.to_dict(), "again")
    assert again == recipe
    assert again.digest == recipe.digest
    assert recipe.with_changes(name="other", description="x").digest == recipe.digest


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"epochs": 3},
        {"checkpoints": [1]},
        {"objectives": ["mse"]},
        {"objectives": [{"cross-entropy": {"smoothing": 0.1}}]},
        {"network": {"width": 5}},
        {"data": {"labels": "shuffled"}},
        {"optimizer": {"clip": 1.0}},
    ],
)
def test_every_other_change_changes_the_digest(changes: dict[str, object]) -> None:
    recipe = tiny_recipe()
    keys = copy.deepcopy(recipe.to_dict())
    assert recipe.with_changes(**changes).digest != recipe.digest
    assert recipe.to_dict() == keys


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"objectives": ["mse", "dropout"]}, {"objectives": ["mse", {"dropout": {"p": 0.5}}]}),
        ({"objectives": "mse"}, {"objectives": [{"mse": {"scale": 1, "weight": 1.0}}]}),
        ({"objectives": ["mse", {"decov": None}]}, {"objectives": ["mse", {"name": "decov"}]}),
        ({"checkpoints": [2, 1, 0]}, {"checkpoints": [1]}),
    ],
)
def test_defaults_written_or_left_out_are_one_recipe(
    changes: dict[str, object], same: dict[str, object]
) -> None:
    assert tiny_recipe(**changes).digest == tiny_recipe(**same).digest


def test_a_start_counts_by_the_name_of_its_folder_not_by_where_it_lies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def digest(weights: str) -> str:
        return tiny_recipe(network={"start": "full", "weights": weights}).digest

    monkeypatch.chdir(tmp_path)
    at_last = {digest(f"trained:{text}") for text in ("a", "./a@last", "/moved/a", "b/../a@last")}
    assert len(at_last) == 1
    assert len({*at_last, digest("trained:a@2"), digest("trained:b")}) == 3


def test_a_change_of_one_key_leaves_those_beside_it() -> None:
    changed = tiny_recipe(optimizer={"lr": 0.5}).optimizer
    assert (changed.lr, changed.batch) == (0.5, 32)


def test_an_unknown_recipe_is_compared_with_those_there_are() -> None:
    with pytest.raises(CriticalMassError, match="no recipe 'quik'; did you mean 'quick'"):
        load_recipe("quik")
