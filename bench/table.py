"""Figures as a Markdown table: medians over the rounds, ratios within each round. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from bench.process import Memory

MIB = 1024 * 1024


@dataclass(slots=True)
class Figures:
    """What was measured of one peer; the lists have one element a round."""

    name: str
    setup: str
    cpu: list[float] = field(default_factory=list)
    """µs of CPU per request."""
    rate: list[float] = field(default_factory=list)
    """Requests a second at full load."""
    busy: list[float] = field(default_factory=list)
    """Cores in use at full load."""
    idle: Memory = field(default_factory=Memory)
    loaded: Memory = field(default_factory=Memory)
    p50: float = 0
    p99: float = 0
    """Milliseconds at half load."""
    share: float = 0
    """The load of which that was, as a part of the full one."""
    broken: int = 0
    """Connections that ended under load."""


def ratio(one: Figures, other: Figures) -> float:
    """CPU of one to CPU of the other: the median of the ratios of each round, when the machine was in the same mood."""
    return median(mine / its for mine, its in zip(one.cpu, other.cpu, strict=True))


def table(rows: Sequence[Figures], against: Mapping[str, str]) -> str:
    """``against`` has the heading and name of each peer that the others are compared with, if it is there."""
    base = {head: found for head, name in against.items() if (found := next((r for r in rows if r.name == name), None))}
    heads = [
        "", "CPU µs/request", "(least–most)", *base, "requests/s", "cores busy",
        "p50 ms", "p99 ms", "idle MiB", "loaded MiB",
    ]  # fmt: skip
    lines = [heads, [":---", *["---:"] * (len(heads) - 1)]]
    lines += [[row.name, *_cells(row, list(base.values()))] for row in rows]
    return markdown(lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Rows of a table; the second one says how the columns are aligned."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cells(row: Figures, others: Sequence[Figures]) -> list[str]:
    return [
        f"{median(row.cpu):.1f}",
        f"{min(row.cpu):.1f}–{max(row.cpu):.1f}",
        *(f"{ratio(row, other):.2f}" for other in others),
        f"{median(row.rate):,.0f}",
        f"{median(row.busy):.2f}",
        f"{row.p50:.2f}",
        f"{row.p99:.2f}",
        f"{row.idle.pss / MIB:.0f}",
        f"{row.loaded.pss / MIB:.0f}",
    ]


def setups(rows: Sequence[Figures]) -> str:
    """How each peer was configured."""
    return "\n".join(f"* {row.name}: {row.setup}" for row in rows)
