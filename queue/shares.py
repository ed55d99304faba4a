"""What each tenant was served: seconds of engine time over its weight, as its workers metered it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from sqlalchemy import Connection, bindparam, select, update
from sqlalchemy.dialects.postgresql import insert

from batchsched.queue.hot import Hot
from batchsched.queue.tables import shares

_FIRST = insert(shares)  # SQLite writes it in the same words
_KEY = [shares.c.tenant]
_MORE = insert(shares).values(tenant=bindparam("of_tenant"), served_s=bindparam("more_s"), active=False)
_CHARGE = Hot(_MORE.on_conflict_do_update(index_elements=_KEY, set_={"served_s": shares.c.served_s + _MORE.excluded.served_s}))
_SERVED = Hot(select(shares.c.tenant, shares.c.served_s))
_BEGIN = _FIRST.on_conflict_do_update(index_elements=_KEY, set_={"served_s": _FIRST.excluded.served_s, "active": True})


def served(connection: Connection) -> dict[str, float]:
    """`served_s` by tenant."""
    return {row["tenant"]: row["served_s"] for row in _SERVED.rows(connection, {})}


def charge(connection: Connection, tenant: str, served_s: float) -> None:
    """A tenant was served for so long, weighted. The last statement of its transaction, if it can be: others wait for the row."""
    _CHARGE.changed(connection, [{"of_tenant": tenant, "more_s": served_s}])


def settle(
    connection: Connection,
    active: Collection[str],
    begin: Callable[[Mapping[str, float], Collection[str], Collection[str]], Mapping[str, float]],
) -> None:
    """Note who has work now. `begin`: where newcomers begin, given `served_s`, who was active before, and who is now."""
    rows = connection.execute(select(shares).order_by(shares.c.tenant).with_for_update()).all()
    before = {row.tenant for row in rows if row.active}
    if before == set(active):
        return
    start = begin({row.tenant: row.served_s for row in rows}, before, active)
    for row in rows:
        if row.tenant not in start and row.active != (row.tenant in active):
            connection.execute(update(shares).where(shares.c.tenant == row.tenant).values(active=row.tenant in active))
    for tenant, served_s in sorted(start.items()):
        connection.execute(_BEGIN, {"tenant": tenant, "served_s": served_s, "active": True})
