"""The command that trains a network by its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari_deblur.cli.options import Option, Values, from_declaration, given
from napari_deblur.cli.session import DEVICE, engine_for, session
from napari_deblur.core.errors import InvalidInputError, UnknownNameError
from napari_deblur.core.params import Declared


def _trainable() -> dict[str, Declared]:
    """Return every recipe by its id."""
    from napari_deblur.train import deformation_recipe
    from napari_deblur.train.feature_recipe import FEATURES, FeatureRecipe
    from napari_deblur.train.recipes import RECIPES
    from napari_deblur.train.restoration_recipe import RESTORATION, RestorationRecipe

    others = {FEATURES: FeatureRecipe(), RESTORATION: RestorationRecipe()}
    return {**RECIPES, **others, **deformation_recipe.RECIPES}


def train_options() -> list[Option]:
    """Return the options of the command ``train``."""
    from napari_deblur.train.deformation_recipe import DeformationRecipe
    from napari_deblur.train.recipes import Recipe
    from napari_deblur.train.restoration_recipe import RestorationRecipe

    known = {*Recipe.model_fields, *RestorationRecipe.model_fields}
    where = "Folder for weights, card and checkpoint; training goes on from what lies there."
    return [
        Option("id", f"What to train: {', '.join(_trainable())}.", "MODEL", "position"),
        Option("output", where, "DIR", short="-o", required=True),
        Option("data", "Folder with training images; without it only rendered scenes are used.", "DIR"),
        Option("start_from", "Id of a network to start from.", "MODEL"),
        Option("restart", "Start anew even if there is a checkpoint.", kind="flag"),
        *from_declaration(Recipe, skip=["id"]),
        *from_declaration(RestorationRecipe, skip=Recipe.model_fields),
        *from_declaration(DeformationRecipe, skip=known),
        DEVICE,
    ]


def train(values: Values) -> int | None:
    """Train a network by its recipe."""
    from napari_deblur.batch import make_folder
    from napari_deblur.train.deformation_recipe import MODELS, DeformationRecipe
    from napari_deblur.train.feature_recipe import FEATURES
    from napari_deblur.train.recipes import Recipe
    from napari_deblur.train.restoration_recipe import RESTORATION, RestorationRecipe

    if values["id"] not in _trainable():
        raise UnknownNameError("MODEL", values["id"], list(_trainable()))
    base = _trainable()[values["id"]]
    named = given(values, Recipe) | given(values, RestorationRecipe) | given(values, DeformationRecipe)
    changes = {name: value for name, value in named.items() if name != "id"}
    chosen = type(base)(**{**base.model_dump(), **changes})
    data = values.get("data")
    if data is not None and not Path(data).is_dir():
        raise InvalidInputError("data", "must be a folder that exists", repr(data))
    if values["id"] in (FEATURES, RESTORATION, *MODELS) and "start_from" in values:
        raise InvalidInputError("start_from", f"must be left out for {values['id']}", values["start_from"])
    folder = make_folder(values["output"])
    device = engine_for(values).device
    kept = {name: getattr(chosen, name) for name in changes}
    with session("train") as run:
        if values["id"] == FEATURES:
            from napari_deblur.train.features import train_features

            weights = [train_features(folder, data_dir=data, run=run, device=device, **kept)]
        elif values["id"] == RESTORATION:
            from napari_deblur.train.restoration import train_restoration

            again = not values.get("restart")
            weights = train_restoration(folder, data_dir=data, resume=again, run=run, device=device, **kept)
        elif values["id"] in MODELS:
            from napari_deblur.train.deformation import train_deformation

            again = not values.get("restart")
            more: dict[str, Any] = {"run": run, "device": device, **kept}
            weights = train_deformation(values["id"], folder, data_dir=data, resume=again, **more)
        else:
            from napari_deblur.train.loop import train as train_identification

            again, start = not values.get("restart"), values.get("start_from")
            more = {"run": run, "device": device, "start_from": start, **kept}
            weights = train_identification(values["id"], folder, data_dir=data, resume=again, **more)
    print(f"weights: {', '.join(str(path) for path in weights)}")
    return None
