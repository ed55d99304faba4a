"""A server for the tests of programs that use batchsched, in memory and on this machine: no database, no planner, no GPU.

    def test_summaries():
        with FakeServer(lambda asked: f"a summary of {asked.prompt}") as server, Client(server.url) as client:
            assert [answer.text for answer in client.run(["one"], model="any")] == ["a summary of one"]

It speaks Files, Batches, Models, and of batchsched's own routes those about one batch; the same contract tests are run against it
and against the real server. Plans, forecasts and grams it knows nothing of: it says so, and invents no figures.
"""

from __future__ import annotations

from batchsched.testing.answering import Asked, Refusal, echo
from batchsched.testing.server import FakeServer

__all__ = ["Asked", "FakeServer", "Refusal", "echo"]
