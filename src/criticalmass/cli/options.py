"""Commands and options that call the library, and the options that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from criticalmass.cli.choices import (
    BACKEND,
    EXTRACTION_BACKEND,
    MEASURE,
    POOL,
    PRECISION,
    SELECTOR,
    TABLE_FORMAT,
    NumberOrAuto,
    load_name,
)
from criticalmass.errors import CriticalMassError, unknown_name

if TYPE_CHECKING:
    from criticalmass.core.backends import Backend

Function = TypeVar("Function", bound=Callable[..., Any])


class LibraryCommand(click.Command):
    """A command that calls one function of the library.

    Parameters
    ----------
    function: "module:name" of the function. Help takes the defaults of options from its signature.
    """

    def __init__(self, *args: Any, function: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._function = function

    def library_function(self) -> Callable[..., Any]:
        """Import the function."""
        function: Callable[..., Any] = load_name(self._function)
        return function


class LibraryOption(click.Option):
    """An option whose help shows the default of the library function's parameter."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the option and its help, with the default."""
        record = super().get_help_record(ctx)
        if record is None or not isinstance(ctx.command, LibraryCommand):
            return record
        text = self._default_text(ctx.command.library_function())
        return (record[0], f"{record[1]}  [default: {text}]") if text else record

    def _default_text(self, function: Callable[..., Any]) -> str:
        parameter = inspect.signature(function).parameters.get(self.name or "")
        if parameter is None or parameter.default in (None, (), inspect.Parameter.empty):
            return ""
        default = parameter.default
        if isinstance(default, bool):
            if not self.secondary_opts:
                return ""
            return (self.opts if default else self.secondary_opts)[0].lstrip("-")
        return ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)


option = partial(click.option, cls=LibraryOption)


def command(
    function: str, example: str, name: str | None = None
) -> Callable[[Callable[..., Any]], LibraryCommand]:
    """Make a command.

    Parameters
    ----------
    function: "module:name" of the library function that the command calls.
    example: one real command line; it ends the help.
    name: name of the command; by default that of the decorated function.
    """
    return click.command(
        name, cls=LibraryCommand, function=function, epilog=f"Example:\n\n\b\n  {example}"
    )


def drop_unset(**options: object) -> dict[str, Any]:
    """Return the options that the user gave; for the others the library's defaults apply."""
    return {name: value for name, value in options.items() if value is not None and value != ()}


def make_backend(
    backend: str | None,
    ray_address: str | None,
    ray_cpus: int | None,
    registry: Mapping[str, Callable[..., Backend]] | None = None,
) -> str | Backend | None:
    """Make one backend of ``--backend``, ``--ray-address`` and ``--ray-cpus``.

    Parameters
    ----------
    registry: name -> what makes the backend; those of a sweep by default.

    Raises
    ------
    CriticalMassError: if options of Ray are given for another backend.
    """
    ray_options = drop_unset(address=ray_address, cpus=ray_cpus)
    if not ray_options:
        return backend
    from criticalmass.sweeps.backends import SWEEP_BACKENDS

    makers = SWEEP_BACKENDS if registry is None else registry
    name = backend or "ray"
    if name not in makers:
        raise unknown_name("backend", name, makers)
    if not name.startswith("ray"):
        raise CriticalMassError(
            f"--backend {name} does not use --ray-{next(iter(ray_options))}; leave one of them out"
        )
    return makers[name](**ray_options)


def out(required: bool = True, what: str = "Folder to write.") -> Callable[[Function], Function]:
    """``--out``: the file or folder that a command writes."""
    return option("--out", type=click.Path(), required=required, help=what)


def several(
    flag: str, parameter: str, what: str, kind: Any = str, metavar: str | None = None
) -> Callable[[Function], Function]:
    """Make an option in the singular that may be repeated, for a parameter in the plural."""
    return option(
        flag, parameter, type=kind, multiple=True, metavar=metavar, help=f"{what} (repeatable)"
    )


def quiet(function: Function) -> Function:
    """``--quiet``: show no progress; without it progress goes to stderr."""
    return click.option(
        "-q",
        "--quiet",
        is_flag=True,
        expose_value=False,
        callback=_show_progress,
        help="Show no progress.",
    )(function)


def _show_progress(ctx: click.Context, parameter: click.Parameter, is_quiet: bool) -> None:
    """Show progress until the command ends."""
    from criticalmass.core import progress

    if not is_quiet:
        ctx.with_resource(progress.display())


def _combine(*decorators: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """Make one decorator of several, in the order in which help lists the options."""

    def decorate(function: Function) -> Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


_RAY_OPTIONS = (
    option("--ray-address", help="HOST:PORT of a Ray cluster; RAY_ADDRESS is used without it."),
    option("--ray-cpus", type=int, help="Threads of each Ray worker; 1 without it."),
)
_BACKEND_HELP = "Where the work runs; ray may be ray:HOST:PORT."
# Where a sweep runs, and where an extraction runs.
where = _combine(option("--backend", type=BACKEND, help=_BACKEND_HELP), *_RAY_OPTIONS)
where_extraction = _combine(
    option("--backend", type=EXTRACTION_BACKEND, help=_BACKEND_HELP), *_RAY_OPTIONS
)
# Which layers of a model are read, and how.
reading = _combine(
    several(
        "--layer",
        "layers",
        "Layer to read: penultimate, a module path, a pattern such as layer?.*, or all.",
    ),
    several(
        "--labels",
        "labels",
        "Column of one of several labels of each sample; features are computed once.",
    ),
    option("--weights", type=click.Path(), help="Weights of a timm: or module: model."),
    option(
        "--pool",
        type=POOL,
        help="Pooling of a feature map or of tokens to one vector; without it mean, "
        "and last for the tokens of decoders.",
    ),
    option(
        "--skip-broken",
        is_flag=True,
        default=None,
        help="Leave out images and sounds that cannot be decoded; the manifest lists them.",
    ),
    option(
        "--precision",
        type=PRECISION,
        help="Precision of the computation; bf16 is faster and less exact.",
    ),
)
# The options of `criticalmass.sweep`.
sweeping = _combine(
    several(
        "--selector", "selectors", "Selector, e.g. random or pca-top.", SELECTOR, metavar="NAME"
    ),
    several("--fraction", "fractions", "Share of neurons to keep, or auto.", NumberOrAuto(float)),
    option("--seeds", type=NumberOrAuto(int), help="Number of seeds of random selectors, or auto."),
    several("--measure", "measures", "Measure, e.g. logistic or cka.", MEASURE, metavar="NAME"),
    several(
        "--refine",
        "refine",
        "Share of the whole layer's value, whose critical mass is found to one neuron; auto "
        "(where that costs less than a tenth of the sweep) or none.",
        NumberOrAuto(float, "none"),
    ),
    option("--refine-level", type=float, help="Confidence at which refining decides on a size."),
    option("--refine-seeds", type=int, help="Most seeds that refining uses for one size."),
    option("--refine-cells", type=int, help="Most cells that refining may add."),
    where,
)
table_format = click.option(
    "--format",
    "form",
    type=TABLE_FORMAT,
    default="table",
    show_default=True,
    help="Format of the table: for the terminal, or for programs.",
)
runs = click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path())
level = option("--level", type=float, help="Confidence level of the intervals.")
resamples = option("--resamples", type=int, help="Number of bootstrap draws.")
out_file = out(required=False, what="File to write instead of standard output.")
# What the commands share that print a table with intervals.
tabulated = _combine(level, resamples, table_format, out_file, quiet)
