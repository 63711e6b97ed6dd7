"""Fuzzing with bad input: ``python -m benchmarks.bad_input --dir DIR --count 100000``.

Hypothesis generates calls of every public function and command in which one or two arguments are
invalid: of the wrong type or shape, NaN, infinite, empty, one sample, one class, huge, Unicode,
repeated. A call is correct if it ends in one of these ways:

- a function returns finite numbers (NaN only in tables, which say why), or raises
  ``CriticalMassError`` with a text of one line;
- a command exits with 0, or with 2 and one error line that repeats what it was given.

Everything else is a failure: a traceback, another exception, a call of over a minute. Hypothesis
shrinks it to a small call, which is printed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import criticalmass as cm
from benchmarks.calls import CALLS, EXCLUDED_COMMANDS, Call, Material, make_material
from criticalmass.cli.main import cli, run_command
from criticalmass.errors import CriticalMassError

_MAX_SECONDS = 60.0
_TEXTS = ("", " ", "nan", "-1", "0", "1e400", "ünïcødé", "\N{PILE OF POO}", "a\nb", "--", "../..",
          "<script>", "'; DROP TABLE x; --", "random", "x" * 5000, "\0",
          "0.9,0.9", "1_000")  # fmt: skip
_NUMBERS = (float("nan"), float("inf"), -float("inf"), -1, 0, 1, 2, 0.5, -0.0, 1e-320, 1e308, 2**31,
            2**63, 10**30, True, 1 + 2j)  # fmt: skip
_LISTS: tuple[Any, ...] = ([], [[]], [None], [1, "a"], [float("nan")], [0.5, 0.5], ["random"] * 2,
                           [-1], {}, {"a": 1}, (), [[1, 2], [3]], [0.5, "x"], [True])  # fmt: skip


def bad_values() -> st.SearchStrategy[Any]:
    """Draw bad values of an argument (some may be valid by chance)."""
    return st.one_of(
        st.none(),
        st.sampled_from(_NUMBERS),
        st.sampled_from(_TEXTS),
        st.sampled_from(_LISTS),
        bad_arrays(),
        st.text(max_size=8),
        st.floats(),
        st.integers(),
        st.binary(max_size=4),
        st.sampled_from([object(), Path("/"), Path("/dev/null"), np.float32(0.5), len, int]),
    )


@st.composite
def bad_arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """Draw arrays of unusual shapes, types and contents."""
    shape = draw(st.sampled_from([(), (0,), (1,), (5,), (0, 4), (4, 0), (1, 1), (5, 3), (2, 2, 2)]))
    kind = draw(st.sampled_from(["f4", "f8", "f2", "i8", "u1", "?", "c8", "U3", "O", "M8[s]"]))
    size = int(np.prod(shape))
    rng = np.random.default_rng(draw(st.integers(0, 3)))
    array = (rng.standard_normal(size) * 3).astype("f8").reshape(shape)
    if kind in ("U3", "O"):
        return array.astype(kind)
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted: np.ndarray[Any, Any] = (
            array.astype("i8").astype(kind) if "M" in kind else array.astype(kind)
        )
    if kind.startswith("f") and size and draw(st.booleans()):
        converted.reshape(-1)[0] = draw(st.sampled_from([np.nan, np.inf, -np.inf, 6e4]))
    return converted


@st.composite
def bad_calls(draw: st.DrawFn, material: Material) -> tuple[Call, dict[str, Any]]:
    """Draw a public function, and arguments of which one or two are bad."""
    call = draw(st.sampled_from(CALLS))
    arguments = call.arguments(material)
    for name in draw(st.lists(st.sampled_from(sorted(arguments)), min_size=1, max_size=2)):
        arguments[name] = draw(bad_values())
    return call, arguments


@dataclass
class Tally:
    """Counts of the outcomes, and the failures."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class CallFailure(AssertionError):
    """A call that did not end correctly."""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 150 else f"{text[:140]}..."


def call_function(call: Call, arguments: dict[str, Any], tally: Tally) -> None:
    """Call a function and record the outcome."""
    text = ", ".join(f"{name}={_short(value)}" for name, value in arguments.items())
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("error", RuntimeWarning)  # NumPy warns of invalid numbers
            result = call.function(**arguments)
    except CriticalMassError as error:
        tally.outcomes["refused"] += 1
        message = str(error)
        if not message or "\n" in message or len(message) > 1500:
            raise CallFailure(f"{call.name}({text}): not one line: {message!r}") from error
        return
    except OSError as error:
        if error.filename is None:
            raise CallFailure(f"{call.name}({text}): {type(error).__name__}: {error}") from error
        tally.outcomes["refused by the system, with the path"] += 1
        return
    except Exception as error:
        raise CallFailure(f"{call.name}({text}): {type(error).__name__}: {error}") from error
    if time.perf_counter() - start > _MAX_SECONDS:
        raise CallFailure(f"{call.name}({text}): took over {_MAX_SECONDS:.0f} s")
    tally.outcomes["answered"] += 1
    if isinstance(result, (float, np.ndarray)) and not np.isfinite(result).all():
        raise CallFailure(f"{call.name}({text}): returned {_short(result)}")


@dataclass(frozen=True)
class Command:
    """A valid command line and the options of the command."""

    words: tuple[str, ...]
    options: tuple[click.Option, ...]


def commands(material: Material) -> list[Command]:
    """Return every command with valid arguments and all its options."""
    result = []
    for name, command in sorted(cli.commands.items()):
        if name in EXCLUDED_COMMANDS:
            continue
        arguments = material.command_lines.get(name)
        if arguments is None:
            raise SystemExit(f"benchmarks/calls.py has no valid arguments for {name!r}")
        options = tuple(p for p in command.params if isinstance(p, click.Option))
        result.append(Command((name, *arguments), options))
    return result


@st.composite
def bad_lines(draw: st.DrawFn, valid: Sequence[Command]) -> list[str]:
    """Draw a command line in which one or two words are bad."""
    command = draw(st.sampled_from(valid))
    words = list(command.words)
    bad_words = st.one_of(st.sampled_from(_TEXTS), st.text(max_size=8), st.floats().map(str))
    for _ in range(draw(st.integers(1, 2))):
        what = draw(st.sampled_from(["option", "option", "argument", "more", "less"]))
        if what == "option" and command.options:
            option = draw(st.sampled_from(command.options))
            words.append(draw(st.sampled_from(option.opts)))
            if not option.is_flag:
                words.append(draw(bad_words))
        elif what == "argument" and len(words) > 1:
            words[draw(st.integers(1, len(words) - 1))] = draw(bad_words)
        elif what == "more":
            words.append(draw(bad_words))
        elif len(words) > 1:
            del words[draw(st.integers(1, len(words) - 1))]
    return [word for word in words if word not in ("-h", "--help", "--version")]


def call_command(words: list[str], tally: Tally) -> None:
    """Run a command line in this process and record the outcome."""
    out, err = io.StringIO(), io.StringIO()
    start = time.perf_counter()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run_command(words)
    except Exception as error:
        raise CallFailure(f"{words}: {type(error).__name__}: {error}") from error
    tally.outcomes[f"exit code {code}"] += 1
    if time.perf_counter() - start > _MAX_SECONDS:
        raise CallFailure(f"{words}: took over {_MAX_SECONDS:.0f} s")
    lines = [line for line in err.getvalue().splitlines() if line.startswith("error: ")]
    if code == 2 and (len(lines) != 1 or not _repeats(lines[0], words)):
        raise CallFailure(
            f"{words}: no single error line that names the problem: {err.getvalue()[-300:]!r}"
        )
    if code not in (0, 2):
        raise CallFailure(f"{words}: exit code {code}: {err.getvalue()[-300:]!r}")


def _repeats(line: str, words: Sequence[str]) -> bool:
    """Return whether an error repeats one of the words or names the command or an option."""
    flat = " ".join(line.split())
    escaped = (str(CriticalMassError(word)).strip() for word in words[1:] if word.strip())
    beginnings = [word[:20].rstrip("/") for word in escaped]
    named = any(word in flat or repr(word)[1:-1] in flat for word in beginnings) or words[0] in flat
    options = (word.lstrip("-") for word in words if word.startswith("--") and len(word) > 2)
    return named or any(word in flat for word in (*options, *(repr(w)[:20] for w in words)))


def run_calls(material: Material, count: int, start: int, tally: Tally) -> None:
    """Make ``count`` random calls, half of functions and half of commands, from a seed."""
    valid = commands(material)
    options: dict[str, Any] = {
        "max_examples": max(1, count // 2),
        "deadline": None,
        "database": None,
        "suppress_health_check": list(HealthCheck),
        "phases": (Phase.generate, Phase.shrink),
    }

    @seed(start)
    @settings(**options)
    @given(bad_calls(material))
    def functions(call: tuple[Call, dict[str, Any]]) -> None:
        material.reset()
        call_function(*call, tally)

    @seed(start)
    @settings(**options)
    @given(bad_lines(valid))
    def lines(words: list[str]) -> None:
        material.reset()
        call_command(words, tally)

    tests: list[Callable[[], None]] = [functions, lines]
    for test in tests:
        try:
            test()
        except CallFailure as failure:
            tally.failures.append(str(failure))
        except BaseExceptionGroup as group:
            tally.failures += [str(failure) for failure in group.exceptions]


def main(argv: Sequence[str] | None = None) -> int:
    """Make random calls and print the outcomes; return 1 if there were failures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="scratch folder")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    arguments.dir.mkdir(parents=True, exist_ok=True)
    os.chdir(arguments.dir)  # relative paths in bad arguments are created here
    material = make_material(arguments.dir.resolve())
    tally, done, number = Tally(), 0, arguments.seed
    while done < arguments.count:
        run_calls(material, min(2000, arguments.count - done), number, tally)
        done, number = sum(tally.outcomes.values()), number + 1
        if len(tally.failures) > 50:
            break
    print(
        f"{done:,} calls: " + ", ".join(f"{n:,} {what}" for what, n in tally.outcomes.most_common())
    )
    print(f"{len(tally.failures)} failures; criticalmass {cm.__version__}")
    for text in tally.failures:
        print(f"  {text[:600]}")
    shutil.rmtree(material.scratch, ignore_errors=True)
    return 1 if tally.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
