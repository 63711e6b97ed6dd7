"""Bad input, broadly: ``python -m benchmarks.bad_input --dir DIR --count 100000``.

Hypothesis draws calls of every public function and of every command of the command line, in which
one or two arguments are not what they should be: of the wrong type or shape, NaN, infinite, empty,
one sample, one class, huge, unicode, twice the same. Each call must end in one of these ways:

- a function returns, and no number of what it returns is NaN unless the table says why; or it
  raises ``CriticalMassError`` with a text of one line that is not empty;
- a command exits with 0, or with 2 and one line of error that repeats what it was given.

Anything else, a traceback, another exception, a call of over a minute, counts as trouble;
Hypothesis shrinks it to a small call, which is printed. The exit status is 1 then.
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
from benchmarks.calls import CALLS, LEFT_OUT, Call, Material, make_material
from criticalmass.cli.main import _code, cli
from criticalmass.errors import CriticalMassError

_LONGEST = 60.0
_TEXTS = ("", " ", "nan", "-1", "0", "1e400", "ünïcødé", "\N{PILE OF POO}", "a\nb", "--", "../..",
          "<script>", "'; DROP TABLE x; --", "random", "x" * 5000, "\0",
          "0.9,0.9", "1_000")  # fmt: skip
_NUMBERS = (float("nan"), float("inf"), -float("inf"), -1, 0, 1, 2, 0.5, -0.0, 1e-320, 1e308, 2**31,
            2**63, 10**30, True, 1 + 2j)  # fmt: skip
_LISTS: tuple[Any, ...] = ([], [[]], [None], [1, "a"], [float("nan")], [0.5, 0.5], ["random"] * 2,
                           [-1], {}, {"a": 1}, (), [[1, 2], [3]], [0.5, "x"], [True])  # fmt: skip


def bad_values() -> st.SearchStrategy[Any]:
    """Draw what an argument should not be (some may happen to be right)."""
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
    """Draw arrays of odd shapes, types and contents."""
    shape = draw(st.sampled_from([(), (0,), (1,), (5,), (0, 4), (4, 0), (1, 1), (5, 3), (2, 2, 2)]))
    kind = draw(st.sampled_from(["f4", "f8", "f2", "i8", "u1", "?", "c8", "U3", "O", "M8[s]"]))
    size = int(np.prod(shape))
    rng = np.random.default_rng(draw(st.integers(0, 3)))
    array = (rng.standard_normal(size) * 3).astype("f8").reshape(shape)
    if kind in ("U3", "O"):
        return array.astype(kind)
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: np.ndarray[Any, Any] = (
            array.astype("i8").astype(kind) if "M" in kind else array.astype(kind)
        )
    if kind.startswith("f") and size and draw(st.booleans()):
        made.reshape(-1)[0] = draw(st.sampled_from([np.nan, np.inf, -np.inf, 6e4]))
    return made


@st.composite
def bad_calls(draw: st.DrawFn, material: Material) -> tuple[Call, dict[str, Any]]:
    """Draw a public function and arguments of which one or two are bad."""
    call = draw(st.sampled_from(CALLS))
    arguments = call.arguments(material)
    for name in draw(st.lists(st.sampled_from(sorted(arguments)), min_size=1, max_size=2)):
        arguments[name] = draw(bad_values())
    return call, arguments


@dataclass
class Tally:
    """How calls ended, and what was trouble."""

    ends: Counter[str] = field(default_factory=Counter)
    trouble: list[str] = field(default_factory=list)


class Trouble(AssertionError):
    """A call that did not end as it should."""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 150 else f"{text[:140]}..."


def call_function(call: Call, arguments: dict[str, Any], tally: Tally) -> None:
    """Call, and look at how it ends."""
    told = ", ".join(f"{name}={_short(value)}" for name, value in arguments.items())
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("error", RuntimeWarning)  # NumPy's, of numbers that went wrong
            result = call.function(**arguments)
    except CriticalMassError as error:
        tally.ends["refused"] += 1
        text = str(error)
        if not text or "\n" in text or len(text) > 1500:
            raise Trouble(f"{call.name}({told}): not one line: {text!r}") from error
        return
    except OSError as error:
        if error.filename is None:
            raise Trouble(f"{call.name}({told}): {type(error).__name__}: {error}") from error
        tally.ends["refused by the system, with the path"] += 1
        return
    except Exception as error:
        raise Trouble(f"{call.name}({told}): {type(error).__name__}: {error}") from error
    if time.perf_counter() - start > _LONGEST:
        raise Trouble(f"{call.name}({told}): took over {_LONGEST:.0f} s")
    tally.ends["answered"] += 1
    if isinstance(result, (float, np.ndarray)) and not np.isfinite(result).all():
        raise Trouble(f"{call.name}({told}): gave {_short(result)}")


@dataclass(frozen=True)
class Command:
    """A command line whose words are right, to be spoilt."""

    words: tuple[str, ...]
    options: tuple[click.Option, ...]


def commands(material: Material) -> list[Command]:
    """List every command with right arguments and all its options."""
    found = []
    for name, command in sorted(cli.commands.items()):
        if name in LEFT_OUT:
            continue
        right = material.command_lines.get(name)
        if right is None:
            raise SystemExit(f"benchmarks/calls.py has no right arguments for {name!r}")
        options = tuple(p for p in command.params if isinstance(p, click.Option))
        found.append(Command((name, *right), options))
    return found


@st.composite
def bad_lines(draw: st.DrawFn, known: Sequence[Command]) -> list[str]:
    """Draw a command line of which one or two words are bad."""
    command = draw(st.sampled_from(known))
    words = list(command.words)
    words_drawn = st.one_of(st.sampled_from(_TEXTS), st.text(max_size=8), st.floats().map(str))
    for _ in range(draw(st.integers(1, 2))):
        what = draw(st.sampled_from(["option", "option", "argument", "more", "less"]))
        if what == "option" and command.options:
            option = draw(st.sampled_from(command.options))
            words.append(draw(st.sampled_from(option.opts)))
            if not option.is_flag:
                words.append(draw(words_drawn))
        elif what == "argument" and len(words) > 1:
            words[draw(st.integers(1, len(words) - 1))] = draw(words_drawn)
        elif what == "more":
            words.append(draw(words_drawn))
        elif len(words) > 1:
            del words[draw(st.integers(1, len(words) - 1))]
    return [word for word in words if word not in ("-h", "--help", "--version")]


def call_command(words: list[str], tally: Tally) -> None:
    """Run a command line in this process, and look at how it ends."""
    out, err = io.StringIO(), io.StringIO()
    start = time.perf_counter()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = _code(words)
    except Exception as error:
        raise Trouble(f"{words}: {type(error).__name__}: {error}") from error
    tally.ends[f"exit code {code}"] += 1
    if time.perf_counter() - start > _LONGEST:
        raise Trouble(f"{words}: took over {_LONGEST:.0f} s")
    lines = [line for line in err.getvalue().splitlines() if line.startswith("error: ")]
    if code == 2 and (len(lines) != 1 or not _repeats(lines[0], words)):
        raise Trouble(
            f"{words}: does not say in one line what was wrong: {err.getvalue()[-300:]!r}"
        )
    if code not in (0, 2):
        raise Trouble(f"{words}: exit code {code}: {err.getvalue()[-300:]!r}")


def _repeats(line: str, words: Sequence[str]) -> bool:
    """Whether an error repeats one of the words, or names what is missing."""
    flat = " ".join(line.split())
    escaped = (str(CriticalMassError(word)).strip() for word in words[1:] if word.strip())
    said = [word[:20].rstrip("/") for word in escaped]
    named = any(word in flat or repr(word)[1:-1] in flat for word in said) or words[0] in flat
    options = (word.lstrip("-") for word in words if word.startswith("--") and len(word) > 2)
    return named or any(word in flat for word in (*options, *(repr(w)[:20] for w in words)))


def hunt(material: Material, count: int, start: int, tally: Tally) -> None:
    """Try ``count`` calls, half of functions and half of commands, from a seed."""
    known = commands(material)
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
    def functions(drawn: tuple[Call, dict[str, Any]]) -> None:
        material.fresh()
        call_function(*drawn, tally)

    @seed(start)
    @settings(**options)
    @given(bad_lines(known))
    def lines(words: list[str]) -> None:
        material.fresh()
        call_command(words, tally)

    tests: list[Callable[[], None]] = [functions, lines]
    for test in tests:
        try:
            test()
        except Trouble as trouble:
            tally.trouble.append(str(trouble))
        except BaseExceptionGroup as group:
            tally.trouble += [str(trouble) for trouble in group.exceptions]


def main(argv: Sequence[str] | None = None) -> int:
    """Hunt, print how calls ended; 1 if there was trouble."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="scratch folder")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(argv)
    asked.dir.mkdir(parents=True, exist_ok=True)
    os.chdir(asked.dir)  # what a wrong path may make is made here
    material = make_material(asked.dir.resolve())
    tally, done, number = Tally(), 0, asked.seed
    while done < asked.count:
        hunt(material, min(2000, asked.count - done), number, tally)
        done, number = sum(tally.ends.values()), number + 1
        if len(tally.trouble) > 50:
            break
    print(f"{done:,} calls: " + ", ".join(f"{n:,} {what}" for what, n in tally.ends.most_common()))
    print(f"{len(tally.trouble)} troubles; criticalmass {cm.__version__}")
    for text in tally.trouble:
        print(f"  {text[:600]}")
    shutil.rmtree(material.scratch, ignore_errors=True)
    return 1 if tally.trouble else 0


if __name__ == "__main__":
    raise SystemExit(main())
