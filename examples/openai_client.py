"""A batch through the stock `openai` client: only `base_url` differs from the usual program.

batchsched serve --config examples/batchsched.toml
batchsched worker --pool local --config examples/batchsched.toml
python examples/openai_client.py [http://127.0.0.1:8424/v1]
"""

import json
import sys
import time
from pathlib import Path

from openai import OpenAI

client = OpenAI(base_url=sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8424/v1", api_key="none")
requests = Path(__file__).with_name("requests.jsonl")

uploaded = client.files.create(file=requests, purpose="batch")
batch = client.batches.create(
    input_file_id=uploaded.id,
    endpoint="/v1/chat/completions",
    completion_window="24h",
    extra_body={"batchsched": {"deadline": "6h"}},  # ours, and optional: finish within six hours, as clean as that allows
)
while batch.status not in {"completed", "failed", "expired", "cancelled"}:
    time.sleep(5)
    batch = client.batches.retrieve(batch.id)

print(batch.id, batch.status, batch.request_counts)
if batch.output_file_id:
    for line in client.files.content(batch.output_file_id).text.splitlines():
        answer = json.loads(line)
        print(answer["custom_id"], answer["response"]["body"]["choices"][0]["message"]["content"][:60])
