"""Typed objects from texts: instructor writes the batch file, schema included, and reads the answers as pydantic models.

pip install instructor
OPENAI_BASE_URL=http://127.0.0.1:8424/v1 OPENAI_API_KEY=none python examples/integrations/instructor_extract.py MODEL
"""

import sys
import time
from typing import Literal

from instructor.batch import BatchProcessor
from pydantic import BaseModel

REVIEWS = ["The soup was cold, twice.", "We will come again next week.", "Never has a waiter been so kind."]


class Mood(BaseModel):
    """What is asked of each review. The engine is held to it: nothing else can be answered."""

    mood: Literal["good", "bad"]


processor = BatchProcessor(f"openai/{sys.argv[1]}", Mood)  # "openai" is the protocol; the address is in the environment
requests = processor.create_batch_from_messages(
    messages_list=[[{"role": "user", "content": f"Is this review good or bad? {review}"}] for review in REVIEWS],
    max_tokens=300,
    temperature=1.0,
)
batch_id = processor.submit_batch(requests, completion_window="6h")  # the deadline, as any duration
while processor.get_batch_status(batch_id)["status"] not in {"completed", "failed", "expired", "cancelled"}:
    time.sleep(5)
for found in processor.retrieve_results(batch_id):  # in any order; the number is in the id
    review = REVIEWS[int(found.custom_id.removeprefix("request-"))]
    print(f"{review} {found.result.mood if found.success else found.error_message}")
