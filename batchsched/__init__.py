"""batchsched: offline LLM batches at the cleanest time that the deadline allows.

The public face is here, imported when first used, so that `import batchsched` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchsched.client import AsyncClient as AsyncClient
    from batchsched.client import Batch as Batch
    from batchsched.client import Client as Client
    from batchsched.client import File as File
    from batchsched.client import Report as Report
    from batchsched.client import Verdict as Verdict

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Batch", "Client", "File", "Report", "Verdict", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'batchsched' has no attribute '{name}'")
    import batchsched.client

    return getattr(batchsched.client, name)
