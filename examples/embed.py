"""A corpus as vectors, a line of a file each, in one batch; then, for each line, which other one is nearest.

python examples/embed.py FILE MODEL [http://127.0.0.1:8424]
"""

import math
import sys
from pathlib import Path

from batchsched import Client


def likeness(one: list[float], other: list[float]) -> float:
    """The cosine of the angle between two vectors."""
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


corpus = Path(sys.argv[1]).read_text().splitlines()
with Client(sys.argv[3] if len(sys.argv) > 3 else None) as client:
    run = client.run(corpus, model=sys.argv[2], endpoint="/v1/embeddings", deadline="12h")
    run.wait()
    vectors = {answer.index: answer.embedding for answer in run if answer.embedding}

for index, vector in vectors.items():
    others = [other for other in vectors if other != index]
    nearest = max(others, key=lambda other: likeness(vector, vectors[other]))
    print(f"{corpus[index]} -> {corpus[nearest]}")
