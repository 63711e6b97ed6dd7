"""The command line, mirroring the library: each command calls one public function.

Exit codes: 0 done; 2 the user's mistake, in one line; 130 interrupted; 1 a bug, with a traceback.
"""

from __future__ import annotations

import errno
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click

from criticalmass import __version__
from criticalmass.cli import analysis, output, pipeline, shrink
from criticalmass.core.memory import spare_address_space
from criticalmass.errors import CriticalMassError, unknown_name

_FULL = "free some and give the same command again, finished parts are kept"
_ELSEWHERE = "choose another path"
# What the system may refuse without anybody's bug, and what helps.
_CURES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _FULL),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _ELSEWHERE),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY), _ELSEWHERE),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EBUSY), _ELSEWHERE),
    errno.EIO: "the disk cannot be read or written there; choose another path",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
}


class _Group(click.Group):
    """A group that knows what an unknown command was meant to be."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first argument names."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise unknown_name("command", args[0], self.commands)
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: criticalmass demo --out demo",
)
@click.version_option(__version__, prog_name="criticalmass")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Measure how few neurons of a pre-trained layer do the whole layer's work."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for _module in (analysis, output, pipeline, shrink):
    for _command in _module.COMMANDS:
        cli.add_command(_command)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    # Before pandas and with it Arrow are loaded; no effect unless the address space is limited.
    spare_address_space()
    sys.exit(_code(list(sys.argv[1:] if argv is None else argv)))


def _code(arguments: list[str]) -> int:
    """Run one command and turn what it raises into an exit code."""
    for place, word in enumerate(arguments, 1):
        if not word.strip() or "\0" in word:
            return _mistake(f"word {place} of the command, {word!r}, is empty or no text")
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        try:
            result = cli.main(arguments, prog_name="criticalmass", standalone_mode=False)
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "criticalmass"
            return _mistake(f"{error.format_message().rstrip('.')} (see: {path} --help)")
        except click.ClickException as error:
            return _mistake(error.format_message())
        except click.Abort:
            click.echo(
                "interrupted; finished parts are kept, the same command goes on from there",
                err=True,
            )
            return 130
        except CriticalMassError as error:
            return _mistake(_in_options(str(error), arguments))
        except OSError as error:
            if error.errno not in _CURES:
                raise
            # A file that could not be moved into place: the place is what the user knows.
            name = error.filename2 or error.filename
            said = CriticalMassError(f"{name}: {error.strerror}; {_CURES[error.errno]}")
            return _mistake(str(said))
    return result if isinstance(result, int) else 0


def _in_options(said: str, arguments: list[str]) -> str:
    """Call the argument that an error begins with what the user called it."""
    name = said.partition("=")[0]
    option = f"--{name.replace('_', '-')}"
    given = any(word.partition("=")[0] == option for word in arguments)
    return f"{option}{said.removeprefix(name)}" if given else said


def _mistake(text: str) -> int:
    """Tell the user's mistake in one line."""
    click.echo(f"error: {' '.join(text.split())}", err=True)
    return 2


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    """Show a warning as one line, without the place in our code."""
    click.echo(f"warning: {' '.join(str(message).split())}", err=True)
