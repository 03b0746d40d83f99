"""What it costs to renew market data lines that stand still, in messages to the gateway."""

from __future__ import annotations

import math

from benchmarks.figures import Check, Effort, Section
from trio_bridge.gateways.socket.market_data.lines import MarketLines, Renew

LINES = 90
SILENT_FOR_S = 600.0
LARGEST_RATE = 3.9


def measure(effort: Effort) -> Section:
    section = Section(
        "Renewal traffic",
        f"{LINES} options on {LINES} market data lines, all of them silent for "
        f"{SILENT_FOR_S:.0f} s: each line is cancelled and subscribed again before it has been "
        "silent for more than a minute. Counted in simulated time; *answered* lines speak once, "
        "at once, when they are renewed, *dead* ones never.",
    )
    table = section.table("lines", "messages/s", "most in a second", "longest without renewal, s")
    for name, answered in (("answered", True), ("dead", False)):
        sent, longest_s = _silence(answered=answered)
        rate = len(sent) / SILENT_FOR_S
        table.add(f"{LINES}, {name}", rate, _most_in_a_second(sent), longest_s)
        section.checks.append(
            Check(f"messages a second on {LINES} silent lines, {name}", rate, at_most=LARGEST_RATE)
        )
    return section


def _silence(*, answered: bool) -> tuple[list[float], float]:
    """When a message was sent after all were subscribed, and the longest time that a line was left
    alone."""
    lines = MarketLines(LINES)
    lines.want(dict.fromkeys(range(LINES), 1.0))
    asked_at = dict.fromkeys(range(LINES), 0.0)
    sent: list[float] = []
    now, longest_s, begun_at = 0.0, 0.0, math.inf
    while now < begun_at + SILENT_FOR_S:
        turn = lines.decide(now)
        for action in turn.actions:
            if isinstance(action, Renew):
                sent += (now, now)
                longest_s = max(longest_s, now - asked_at[action.con_id])
            asked_at[action.con_id] = now
            if answered:
                lines.answered(action.con_id, now)
        if begun_at == math.inf and lines.lines_used == LINES:
            begun_at = now
        assert turn.again_at is not None
        now = max(now, turn.again_at)
    return sent, longest_s


def _most_in_a_second(sent: list[float]) -> int:
    return max(sum(first <= at <= first + 1 for at in sent) for first in sent)
