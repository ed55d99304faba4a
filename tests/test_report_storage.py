"""The report's remark on storage: the figures once, then each grid that they were taken by."""

from __future__ import annotations

from batchsched.cli.report import storage_sources


def test_figures_are_said_once_with_every_grid() -> None:
    figures = "1.2 W a TB; embodied, low: X"
    said = [
        f"{figures}; grid no forecast for 'A'.",
        f"{figures}; grid realised",
        f"{figures}; grid no forecast for 'A'.",
        "other",
    ]
    assert storage_sources(said) == [f"{figures}; grid no forecast for 'A'; grid realised", "other"]
