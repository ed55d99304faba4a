"""A program that awaits many single calls, as it is: autobatcher gathers what it asks at one time into one batch.

pip install autobatcher
python examples/integrations/autobatcher_gather.py MODEL [http://127.0.0.1:8424/v1]
"""

import asyncio
import sys

from autobatcher import BatchOpenAI

QUESTIONS = ["Why is the sky blue?", "Why is the sea salt?", "Why do cats purr?"]


async def ask(client: BatchOpenAI, question: str) -> str:
    """What the program did before; only its client is another."""
    answer = await client.chat.completions.create(
        model=sys.argv[1], messages=[{"role": "user", "content": question}], max_tokens=20
    )
    return answer.choices[0].message.content or ""


async def main() -> None:
    """All questions at once: one file, one batch."""
    client = BatchOpenAI(
        base_url=sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8424/v1",
        api_key="none",  # a key of yours, where the server asks for one
        completion_window="24h",  # without it, it would poll single answers instead of making a batch
        batch_window_seconds=1,
        poll_interval_seconds=2,
    )
    for question, answer in zip(QUESTIONS, await asyncio.gather(*(ask(client, each) for each in QUESTIONS)), strict=True):
        print(f"{question} {answer}")
    await client.close()


asyncio.run(main())
