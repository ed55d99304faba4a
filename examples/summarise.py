"""A folder of texts, and in it a folder of summaries, one for each. Run again, it does only what is new or was changed.

python examples/summarise.py FOLDER MODEL [http://127.0.0.1:8424]
"""

import sys
from hashlib import sha256
from pathlib import Path

from batchsched import Client

folder, model = Path(sys.argv[1]), sys.argv[2]
summaries = folder / "summaries"
summaries.mkdir(exist_ok=True)


def is_current(text: Path) -> bool:
    """There is a summary of it, and it is not older."""
    summary = summaries / text.name
    return summary.exists() and summary.stat().st_mtime >= text.stat().st_mtime


texts = [text for text in sorted(folder.glob("*.txt")) if not is_current(text)]
if not texts:
    print(f"Nothing is new in {folder}.")
    sys.exit()

prompts = [f"Summarise in two sentences:\n\n{text.read_text()}" for text in texts]
key = sha256("\0".join(prompts).encode()).hexdigest()  # interrupted and started again, it finds its batch instead of a second one
with Client(sys.argv[3] if len(sys.argv) > 3 else None) as client:
    run = client.run(prompts, model=model, deadline="12h", parameters={"max_tokens": 120}, idempotency_key=key)
    run.wait()
    for text, answer in zip(texts, run, strict=True):
        if answer.text:
            (summaries / text.name).write_text(answer.text)
        print(f"{text.name}: {'summarised' if answer.text else answer.error}")
    report = run.report()
    print(f"{report.operational_g} g; run at once it would have been {report.grams_run_now} g")
