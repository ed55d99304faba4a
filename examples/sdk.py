"""The same batch through batchsched's own client, which also knows verdict, progress and carbon.

python examples/sdk.py [http://127.0.0.1:8424]
"""

import sys
from pathlib import Path

from batchsched import Batch, Client


def tell(batch: Batch) -> None:
    """One line for each look at the batch."""
    progress = batch.progress
    print(f"{progress.requests_done}/{progress.requests_total}", progress.waiting_for or progress.state)


with Client(sys.argv[1] if len(sys.argv) > 1 else None) as client:
    batch = client.batches.create(file=Path(__file__).with_name("requests.jsonl"), endpoint="/v1/chat/completions", deadline="6h")
    batch = client.batches.wait(batch.id, on_progress=tell)
    for line in client.batches.results(batch.id):
        print(line.custom_id, (line.text or "no answer")[:60])
    report = client.batches.report(batch.id)
    print(f"{report.operational_g} g; run at once it would have been {report.grams_run_now} g")
