"""Prompts in, answers out in the same order: one batch, with a deadline.

python examples/run.py MODEL [http://127.0.0.1:8424]
"""

import sys

from batchsched import Client

QUESTIONS = ("Why is the sky blue?", "Why is the sea salt?", "Why do cats purr?")

with Client(sys.argv[2] if len(sys.argv) > 2 else None) as client:
    run = client.run(QUESTIONS, model=sys.argv[1], deadline="6h", parameters={"max_tokens": 40, "temperature": 0})
    print(f"{run.id}: interrupt this as you like, `batchsched results {run.id}` has its answers all the same")
    run.wait()  # shows how far it is, on a terminal or in a notebook
    for question, answer in zip(QUESTIONS, run, strict=True):
        print(f"{question} {answer.text if answer.ok else answer.error}")
