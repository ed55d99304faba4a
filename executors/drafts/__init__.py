"""Drafts from an old GPU for a target model elsewhere: the service before the draft engine, and how a target is told of it."""

from __future__ import annotations

from batchsched.executors.drafts.service import DraftService as DraftService
from batchsched.executors.drafts.service import serve_drafts as serve_drafts
from batchsched.executors.drafts.target import target_args as target_args
from batchsched.executors.drafts.target import target_environment as target_environment

__all__ = ["DraftService", "serve_drafts", "target_args", "target_environment"]
