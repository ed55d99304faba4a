"""An evaluation each night, while a pool's window is open; in the morning, how many answers were right.

The server's batchsched.toml names a folder for inputs: `[server]`, `inputs_dir = "/srv/batch-inputs"`. Then, once:

python examples/nightly.py set-up --pool POOL --model MODEL --inputs /srv/batch-inputs/default

and each morning:

python examples/nightly.py score
"""

import argparse
import json
from pathlib import Path

from batchsched import Client

NAME = "nightly-evaluation"
QUESTIONS = {  # a question, and what its answer must contain
    "larger": ("Which is larger, 9 or 12? Answer with the number.", "12"),
    "sum": ("What is 20 and 22 together? Answer with the number.", "42"),
    "capital": ("What is the capital of France? Answer with one word.", "Paris"),
}


def set_up(client: Client, pool: str, model: str, inputs: Path, opens: str, zone: str) -> None:
    """The questions where the server looks for them, a window for the pool, and a job that recurs."""
    bodies = {name: {"model": model, "messages": [{"role": "user", "content": asked}]} for name, (asked, _) in QUESTIONS.items()}
    line = {"method": "POST", "url": "/v1/chat/completions"}
    lines = [json.dumps({"custom_id": name, **line, "body": {**body, "max_tokens": 20}}) for name, body in bodies.items()]
    (inputs / f"{NAME}.jsonl").write_text("\n".join(lines) + "\n")

    hour, minute = opens.split(":")
    cron = f"{int(minute)} {int(hour)} * * *"
    window = client.windows.add("nights", pool=pool, cron=cron, duration="8h", timezone=zone)
    job = client.schedules.add(NAME, cron=cron, file=f"{NAME}.jsonl", deadline="8h", timezone=zone)
    print(f"{window.id}: {pool} is open for 8h each day from {opens}, next at {window.openings[0].opens_local}")
    print(f"{NAME}: {len(QUESTIONS)} questions, next at {job.next_local}")


def score(client: Client) -> None:
    """What came of the nights so far, the newest first."""
    for night in client.schedules.history(NAME):
        if night.batch_id is None or night.batch_status != "completed":
            print(f"{night.due_at:%Y-%m-%d}: {night.note or night.batch_status or night.state}")
            continue
        answers = {line.custom_id: line.text or "" for line in client.batches.results(night.batch_id)}
        right = [name for name, (_, expected) in QUESTIONS.items() if expected in answers.get(name, "")]
        print(f"{night.due_at:%Y-%m-%d}: {len(right)} of {len(QUESTIONS)} right ({', '.join(right)}), {night.grams} g")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("act", choices=["set-up", "score"])
parser.add_argument("--server", help="the server [default: from the configuration, or http://127.0.0.1:8424]")
parser.add_argument("--pool", help="the pool that is for batches at night alone")
parser.add_argument("--model")
parser.add_argument("--inputs", type=Path, help="your tenant's folder below the server's inputs_dir")
parser.add_argument("--opens", default="22:00", help="when the window opens [default: %(default)s]")
parser.add_argument("--zone", default="Europe/Berlin", help="whose clock that is [default: %(default)s]")
asked = parser.parse_args()
with Client(asked.server) as connected:
    if asked.act == "score":
        score(connected)
    elif asked.pool and asked.model and asked.inputs:
        set_up(connected, asked.pool, asked.model, asked.inputs, asked.opens, asked.zone)
    else:
        parser.error("set-up needs --pool, --model and --inputs")
