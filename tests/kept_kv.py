"""Keys and values in a fake engine: kept for another and read by it, by the words of vLLM's NixlConnector.

What is kept is the prompt itself, so that whoever reads somebody else's is found out: it answers 500 then, as it does for what is
not there any more unless its policy is to compute it again.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import Any

import aiohttp
from aiohttp import web


class KeptKv:
    """Of one engine. `config`: that of its --kv-transfer-config; `port`: where it listens, as the other side is told."""

    def __init__(self, config: dict[str, Any], port: int = 0) -> None:
        self.config, self.port = config, port
        self.kept: dict[str, str] = {}
        self.most_kept = 0
        self.counts: Counter[str] = Counter()
        """Prompts `kept`, `read` from elsewhere, `recomputed` because they were not there."""
        self.comes = asyncio.Event()
        """Cleared: what is read from elsewhere never comes, as of an engine that is only half dead."""
        self.comes.set()
        self.fetching = 0
        self._ids = itertools.count()

    @property
    def tokens(self) -> int:
        """Words of the prompts that are kept."""
        return sum(len(prompt.split()) for prompt in self.kept.values())

    def metrics(self, label: str) -> list[str]:
        """As vLLM counts them."""
        prefix = label.rstrip("}")
        return [
            f'vllm:prompt_tokens_by_source_total{prefix},source="external_kv_transfer"}} {float(self.counts["tokens"])}',
            f"vllm:nixl_bytes_transferred_sum{label} {1024.0 * self.counts['tokens']}",
            f'vllm:num_requests_kv_fetch_by_stage{prefix},stage="in_progress"}} {float(self.fetching)}',
            f'vllm:num_requests_kv_fetch_by_stage{prefix},stage="waiting_to_start"}} 7.0',
            f"vllm:nixl_xfer_time_seconds_count{label} {float(self.counts['read'])}",
            f"vllm:nixl_num_failed_transfers_total{label} {float(self.counts['recomputed'])}",
            f"fake:kept_total{label} {float(self.counts['kept'])}",
        ]

    def keep(self, asked: dict[str, Any] | None, prompt: str) -> dict[str, Any] | None:
        """Keep a prompt that was read where that was asked for; where it is then."""
        if not asked or not asked.get("do_remote_decode") or self.config["kv_role"] != "kv_producer":
            return None
        name = f"kept-{next(self._ids)}"
        self.kept[name] = prompt
        self.most_kept = max(self.most_kept, len(self.kept))
        self.counts["kept"] += 1
        place = {"remote_host": "127.0.0.1", "remote_port": self.port, "remote_engine_id": "fake", "remote_request_id": name}
        return {"do_remote_prefill": True, "do_remote_decode": False, "remote_block_ids": [[1, 2]], "tp_size": 1, **place}

    async def take(self, asked: dict[str, Any] | None, prompt: str) -> bool:
        """Read from elsewhere what a request says lies there; False where it cannot be had and must not be computed."""
        if not asked or not asked.get("do_remote_prefill"):
            return True
        self.fetching += 1
        try:
            await self.comes.wait()
        finally:
            self.fetching -= 1
        url = f"http://{asked['remote_host']}:{asked['remote_port']}/fake_kv/{asked['remote_request_id']}"
        try:
            async with aiohttp.ClientSession() as session, session.post(url) as answer:
                found = await answer.text() if answer.status == 200 else None
        except (aiohttp.ClientError, OSError):
            found = None
        if found is not None:
            self.counts.update(read=1, tokens=len(prompt.split()))
            return found == prompt  # somebody else's would be answered wrongly
        self.counts["recomputed"] += 1
        return bool(self.config.get("kv_load_failure_policy") == "recompute")

    async def give(self, request: web.Request) -> web.Response:
        """To the engine that asks; it is not kept any longer."""
        prompt = self.kept.pop(request.match_info["request"], None)
        return web.Response(status=404) if prompt is None else web.Response(text=prompt)
