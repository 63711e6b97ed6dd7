"""Options that several commands share, and the way from options to parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from criticalmass.errors import CriticalMassError, unknown_name

Function = TypeVar("Function", bound=Callable[..., Any])
FORMATS = ("table", "json", "csv", "parquet")
# What `backends.ray.Ray` takes, as options ``--ray-NAME``.
RAY = ("address", "cpus")


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Keep the options that the user gave, so that the library's defaults are the only ones."""
    kept = {name: value for name, value in options.items() if value is not None and value != ()}
    return _with_cluster(kept)


def _with_cluster(options: dict[str, Any]) -> dict[str, Any]:
    """Make one backend of ``--backend``, ``--ray-address`` and ``--ray-cpus``."""
    told = {name: options.pop(f"ray_{name}") for name in RAY if f"ray_{name}" in options}
    if not told:
        return options
    name = options.setdefault("backend", "ray")
    if name not in ("ray", "ray-rows"):
        raise CriticalMassError(
            f"--backend {name} has no use for --ray-{next(iter(told))}; leave one of them out"
        )
    from criticalmass.sweeps.backends import SWEEP_BACKENDS

    return {**options, "backend": SWEEP_BACKENDS[name](**told)}


def example(line: str) -> dict[str, Any]:
    """Make the end of a command's help: one real example."""
    return {"epilog": f"Example:\n\n\b\n  {line}"}


def out(required: bool = True, what: str = "Folder to write.") -> Callable[[Function], Function]:
    """``--out``: what a command writes."""
    return click.option("--out", type=click.Path(), required=required, help=what)


def several(
    flag: str, parameter: str, what: str, kind: Any = str
) -> Callable[[Function], Function]:
    """Make an option in the singular that may be repeated, for a parameter in the plural."""
    return click.option(flag, parameter, type=kind, multiple=True, help=f"{what} (repeatable)")


def quiet(function: Function) -> Function:
    """``--quiet``: no progress; without it the command line shows progress on stderr."""
    return click.option(
        "-q",
        "--quiet",
        is_flag=True,
        expose_value=False,
        callback=_switch,
        help="Show no progress.",
    )(function)


def table_format(function: Function) -> Function:
    """``--format``: for people or for machines."""
    return click.option(
        "--format",
        "form",
        metavar=f"[{'|'.join(FORMATS)}]",
        default="table",
        callback=_known_format,
        help="How to print the table.",
    )(function)


def where(function: Function) -> Function:
    """Give a command the options that say where its work runs."""
    for option in (
        click.option("--ray-cpus", type=int, help="Threads of each worker of Ray: 1."),
        click.option("--ray-address", help="HOST:PORT of a Ray cluster, also RAY_ADDRESS."),
        click.option("--backend", help="Where the work runs: local (default), ray or ray-rows."),
    ):
        function = option(function)
    return function


class _OrAuto(click.ParamType):  # type: ignore[type-arg]  # newer click: generic
    """A number, or "auto", which leaves it to the laws."""

    def __init__(self, kind: type[int] | type[float]) -> None:
        self.kind = click.INT if kind is int else click.FLOAT
        self.name = self.kind.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Keep "auto" and "auto:0.01" as they are."""
        if isinstance(value, str) and value.split(":")[0] == "auto":
            return value
        return self.kind.convert(value, param, ctx)


def sweeping(function: Function) -> Function:
    """Give a command the options of `criticalmass.sweep`."""
    for option in (
        where,
        click.option("--refine-cells", type=int, help="Most cells a search may add: 1000."),
        click.option("--refine-seeds", type=int, help="Most seeds a search gives a size: 20."),
        click.option("--refine-level", type=float, help="When a size counts as settled: 0.95."),
        several(
            "--refine",
            "refine",
            "Share of the whole layer's value to find the critical mass of, to one neuron.",
            float,
        ),
        several("--measure", "measures", "What is scored, e.g. logistic, knn, cka."),
        click.option(
            "--seeds", type=_OrAuto(int), help="How many seeds of the random selectors: 5, or auto."
        ),
        several("--fraction", "fractions", "Share of neurons to keep, or auto.", _OrAuto(float)),
        several("--selector", "selectors", "Rule that chooses neurons, e.g. random, pca-top."),
    ):
        function = option(function)
    return function


def _switch(ctx: click.Context, parameter: click.Parameter, silent: bool) -> None:
    from criticalmass.core import progress

    progress.enable(not silent)


def _known_format(ctx: click.Context, parameter: click.Parameter, form: str) -> str:
    if form not in FORMATS:
        raise unknown_name("format", form, FORMATS)
    return form


runs = click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path())
level = click.option("--level", type=float, help="Level of the intervals: 0.95.")
resamples = click.option("--resamples", type=int, help="Bootstrap draws: 2000.")
out_file = out(required=False, what="File to write instead of standard output.")
