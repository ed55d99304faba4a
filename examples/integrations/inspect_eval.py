"""An evaluation with Inspect whose calls to the model are batches.

pip install inspect-ai openai
OPENAI_BASE_URL=http://127.0.0.1:8424/v1 OPENAI_API_KEY=none \
    inspect eval examples/integrations/inspect_eval.py --model openai/MODEL --batch
"""

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate


@task
def capitals() -> Task:
    """Three questions, each right where the answer has the word."""
    pairs = [("France", "Paris"), ("Japan", "Tokyo"), ("Peru", "Lima")]
    samples = [Sample(input=f"What is the capital of {land}? One word.", target=town) for land, town in pairs]
    return Task(dataset=samples, solver=generate(), scorer=includes())
