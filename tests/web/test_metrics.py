"""What a scraper gets, whatever it asks for."""

from __future__ import annotations

import pytest

from trio_bridge.web.metrics import Metrics


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text"),
        ("application/openmetrics-text; version=latest", "text/plain; version=0.0.4"),
        ("text/plain; version=1.x", "text/plain; version=0.0.4"),
    ],
)
def test_every_wish_is_answered(accept: str, content_type: str) -> None:
    exposition = Metrics().expose(accept, spool_rows=None)
    assert exposition.content_type.startswith(content_type)
    assert b"trio_bridge_row_lateness_seconds" in exposition.content
