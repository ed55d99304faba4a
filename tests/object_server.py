"""A real S3-speaking server on 127.0.0.1 for the tests: moto, in a thread, with one bucket."""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import Any

import pytest

from tests.live import HTTP

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


class ObjectServer:
    """The server: where it is, and how to break it."""

    def __init__(self, port: int = 0) -> None:
        from moto.server import ThreadedMotoServer  # half a second, which most workers of pytest need not spend

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server: Any = ThreadedMotoServer("127.0.0.1", port)
        self._server.start()
        self.port: int = self._server.get_host_and_port()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {**KEYS, "AWS_ENDPOINT_URL": self.url}

    def reset(self) -> None:
        """Forget everything, then make the bucket."""
        HTTP.post(f"{self.url}/moto-api/reset").raise_for_status()
        HTTP.put(f"{self.url}/bucket").raise_for_status()

    def objects(self) -> list[str]:
        """Every key in the bucket."""
        import re

        return re.findall(r"<Key>([^<]+)</Key>", HTTP.get(f"{self.url}/bucket").text)

    def unfinished(self) -> list[str]:
        """Keys of uploads that were begun and neither finished nor dropped."""
        import re

        return re.findall(r"<Key>([^<]+)</Key>", HTTP.get(f"{self.url}/bucket?uploads").text)

    def stop(self) -> None:
        """It answers no more; another on its port would know what it knew."""
        self._server.stop()


@pytest.fixture(scope="session")
def _object_server() -> Generator[ObjectServer]:
    server = ObjectServer()
    yield server
    server.stop()


@pytest.fixture
def object_server(_object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> ObjectServer:
    """An S3 server with an empty bucket named `bucket`, which the environment points at."""
    _object_server.reset()
    for name, value in _object_server.environment.items():
        monkeypatch.setenv(name, value)
    return _object_server
