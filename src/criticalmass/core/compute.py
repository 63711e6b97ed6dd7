"""`Compute`: where and with what the work on one machine is done, handed from call to call."""

from __future__ import annotations

from dataclasses import dataclass

from criticalmass.core.moments import MomentsExecutor

#: Standardised rows of an order up to this size stay in memory. Larger ones are read every pass.
HELD_BYTES = 1 << 30


@dataclass(frozen=True)
class Compute:
    """The means of a computation. They change its duration and memory, not what a number is.

    The defaults suit a laptop. Other values differ in the last digits only, because sums are made
    in another order.

    Attributes
    ----------
    threads: threads of the passes over rows; None takes `core.threads.thread_count`.
    device: where a logistic probe is fitted: "auto", "cpu", "cuda", "cuda:1" or "torch-cpu".
    held_bytes: largest size in bytes of the standardised rows of an order that stay in memory.
    executor: workers that hold the rows, which then make all passes over them; None reads the
        rows in this process.
    """

    threads: int | None = None
    device: str = "auto"
    held_bytes: int = HELD_BYTES
    executor: MomentsExecutor | None = None


DEFAULT_COMPUTE = Compute()
