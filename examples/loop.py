"""The body of a loop over files, run for all of them as one batch: what was a call to a model is a `yield`.

python examples/loop.py FOLDER MODEL [http://127.0.0.1:8424]

The loop that this was:

    for path in sorted(folder.glob("*.md")):
        answer = ask(f"Summarise in one sentence:\\n\\n{path.read_text()}")
        print(f"{path.name}: {answer}")
"""

import sys
from collections.abc import Generator
from pathlib import Path

import batchsched
from batchsched import Answer, Client

client = Client(sys.argv[3] if len(sys.argv) > 3 else None)


@batchsched.batch(model=sys.argv[2], deadline="6h", parameters={"max_tokens": 60}, client=client)
def summarise(path: Path) -> Generator[str, Answer, str]:
    """One round of the loop."""
    answer = yield f"Summarise in one sentence:\n\n{path.read_text()}"
    return f"{path.name}: {answer.text if answer.ok else answer.error}"


with client:
    for summary in summarise.map(sorted(Path(sys.argv[1]).glob("*.md"))):
        print(summary)
