"""Where our own routes begin, and the headers that both sides know: all that most of a client needs of the protocol (wire.py)."""

from __future__ import annotations

PREFIX = "/v1/batchsched"
CURSOR_HEADER = "x-batchsched-cursor"
"""Of an answer with partial results: where its reader stands, to be sent with the next question."""
STATUS_HEADER = "x-batchsched-status"
"""Beside it: the batch's status when they were read."""
