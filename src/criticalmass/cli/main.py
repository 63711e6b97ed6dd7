"""The command line: each command calls one public function of the library.

Exit codes: 0 done; 2 a mistake of the user, with one line on stderr; 3 no promise, or one that new
data do not confirm (`shrink --fail-if-unsafe`, `verify`); 130 interrupted; 1 a bug, with a
traceback.
"""

from __future__ import annotations

import codecs
import errno
import io
import logging
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click

from criticalmass import __version__
from criticalmass.cli import analysis, output, pipeline, probing, shrink
from criticalmass.core.memory import limit_allocator_reserves
from criticalmass.errors import CriticalMassError, unknown_name

_FREE_SPACE = "free some space and run the same command again"
_OTHER_PATH = "choose another path"
# Errors of the system that are not bugs, and their cures.
_CURES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _FREE_SPACE),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _OTHER_PATH),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY), _OTHER_PATH),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EBUSY), _OTHER_PATH),
    errno.EIO: "the disk cannot be read or written there; choose another path",
    errno.ENOLCK: "the file system there has no locks; choose a path on another one",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
}

# Characters that our tables, bars and texts use.
_ASCII = str.maketrans(
    {
        **{chr(code): "+" for code in range(0x2500, 0x2580)},  # lines of boxes
        **dict.fromkeys("─━═╌╍┄┅┈┉╴╶╸╺╼╾–—−·•", "-"),
        **dict.fromkeys("│┃║╎╏┆┇┊┋", "|"),
        **dict(zip("▁▂▃▄▅▆▇█", "12345678", strict=True)),
        **{"±": "+-", "×": "x", "≤": "<=", "≥": ">=", "≈": "~", "…": "...", "’": "'"},
    }
)


class _Group(click.Group):
    """A group whose error for an unknown command has a did-you-mean."""

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
    """Measure how few neurons of a pre-trained layer do nearly what the whole layer does."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for _module in (analysis, output, pipeline, probing, shrink):
    for _command in _module.COMMANDS:
        cli.add_command(_command)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its exit code."""
    # Must run before pandas loads Arrow; it has no effect unless the address space is limited.
    limit_allocator_reserves()
    _make_output_safe()
    # It reports that it stores fonts in a temporary folder, which happens in read-only containers.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    sys.exit(run_command(list(sys.argv[1:] if argv is None else argv)))


def _make_output_safe() -> None:
    """Let the terminal's or pipe's encoding lack characters: they are written in ASCII."""
    codecs.register_error("criticalmass", _spell_in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="criticalmass")


def _spell_in_ascii(error: UnicodeError) -> tuple[str, int]:
    r"""Spell what an encoding lacks; letters of other alphabets become ``\u4e2d``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_ASCII)
    return text.encode("ascii", "backslashreplace").decode(), error.end


def run_command(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors of the user go to stderr in one line."""
    for position, word in enumerate(arguments, 1):
        if not word.strip() or "\0" in word:
            return _report_mistake(f"word {position} of the command is empty or binary: {word!r}")
    with warnings.catch_warnings():
        warnings.showwarning = _print_warning
        try:
            result = cli.main(arguments, prog_name="criticalmass", standalone_mode=False)
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "criticalmass"
            return _report_mistake(f"{error.format_message().rstrip('.')} (see: {path} --help)")
        except click.ClickException as error:
            return _report_mistake(error.format_message())
        except click.Abort:
            click.echo(
                "interrupted; the same command continues after the last part that was written, if "
                "there is one",
                err=True,
            )
            return 130
        except CriticalMassError as error:
            return _report_mistake(_name_option(str(error), arguments))
        except UnicodeEncodeError as error:
            if "surrogates" not in error.reason:
                raise
            # Python writes bytes that are no UTF-8 as surrogates, in names of files only.
            near = error.object[max(0, error.start - 30) : error.end + 30]
            return _report_mistake(
                f"the name of a file or folder is not UTF-8 text, near {near!r}; rename it"
            )
        except OSError as error:
            if error.errno is None and "MPLCONFIGDIR" in str(error):
                return _report_mistake(str(error))  # It names the cure.
            if error.errno not in _CURES:
                raise
            # If a file could not be moved, the target is the path that the user knows.
            path = error.filename2 or error.filename
            text = CriticalMassError(f"{path}: {error.strerror}; {_CURES[error.errno]}")
            return _report_mistake(str(text))
    return result if isinstance(result, int) else 0


def _name_option(text: str, arguments: list[str]) -> str:
    """Replace ``parameter=value`` at the start of an error by the option that the user gave."""
    name = text.partition("=")[0]
    option = f"--{name.replace('_', '-')}"
    is_given = any(word.partition("=")[0] == option for word in arguments)
    return f"{option}{text.removeprefix(name)}" if is_given else text


def _report_mistake(text: str) -> int:
    """Print an error in one line and return the exit code."""
    click.echo(f"error: {' '.join(text.split())}", err=True)
    return 2


def _print_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning in one line, without the line of source code."""
    click.echo(f"warning: {' '.join(str(message).split())}", err=True)
