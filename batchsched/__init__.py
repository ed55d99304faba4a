"""batchsched: offline LLM batches at the cleanest time that the deadline allows.

The public face is here, imported when first used, so that `import batchsched` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchsched.client import Answer as Answer
    from batchsched.client import AsyncClient as AsyncClient
    from batchsched.client import AsyncRun as AsyncRun
    from batchsched.client import Batch as Batch
    from batchsched.client import Client as Client
    from batchsched.client import File as File
    from batchsched.client import Plan as Plan
    from batchsched.client import Report as Report
    from batchsched.client import Run as Run
    from batchsched.client import Verdict as Verdict
    from batchsched.client import batch as batch
    from batchsched.errors import BatchschedError as BatchschedError

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "AsyncClient",
    "AsyncRun",
    "Batch",
    "BatchschedError",
    "Client",
    "File",
    "Plan",
    "Report",
    "Run",
    "Verdict",
    "__version__",
    "batch",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'batchsched' has no attribute '{name}'")
    import batchsched.client
    from batchsched import errors

    return getattr(errors if hasattr(errors, name) else batchsched.client, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
