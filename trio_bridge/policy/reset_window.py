"""Placeholder while it is being written."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ResetWindow:
    text: str


def parse_reset_windows(text: str) -> tuple[ResetWindow, ...]:
    return tuple(ResetWindow(part) for part in text.split(","))
