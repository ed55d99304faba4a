"""Which hosts are this machine: an address, not a name that begins like one."""

from __future__ import annotations

import pytest

from batchsched.errors import InsecureBind
from batchsched.hosts import is_loopback
from batchsched.server.bind import check_bind
from batchsched.settings import Server


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost", "LOCALHOST"])
def test_this_machine(host: str) -> None:
    assert is_loopback(host)
    check_bind(Server(host=host))


@pytest.mark.parametrize(
    "host", ["127.evil.example", "127.0.0.1.example.com", "localhost.example.com", "0.0.0.0", "::", "10.0.0.1", ""]
)
def test_not_this_machine_alone(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(InsecureBind):
        check_bind(Server(host=host))
