"""Fixtures that every test may ask for."""

from __future__ import annotations

from tests.object_server import _object_server as _object_server
from tests.object_server import object_server as object_server
from tests.postgres import database as database
from tests.postgres import database_url as database_url
from tests.postgres import postgres as postgres
from tests.postgres import postgres_url as postgres_url
