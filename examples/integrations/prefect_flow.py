"""A task of a Prefect flow that is one batch: where the task is tried again, it waits for the batch that it had begun.

pip install batchsched prefect
python examples/integrations/prefect_flow.py MODEL FOLDER [http://127.0.0.1:8424]
"""

import sys
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.runtime import flow_run

from batchsched import Client


@task(retries=2, retry_delay_seconds=60)
def answers(prompts: list[str], model: str, server: str | None) -> list[str | None]:
    """One batch, due in eight hours. Its key is the flow run's: a task that is tried again waits for the same batch."""
    with Client(server) as client:
        run = client.run(prompts, model=model, deadline="8h", idempotency_key=f"prefect-{flow_run.get_id()}")
        get_run_logger().info("%s: %s requests", run.id, len(prompts))
        run.wait(on_progress=lambda batch: get_run_logger().info("%s", batch.progress.state))
        return [answer.text for answer in run]


@flow(log_prints=True)
def summaries(folder: str, model: str, server: str | None = None) -> dict[str, str | None]:
    """A sentence for each text of a folder."""
    paths = sorted(Path(folder).glob("*.txt"))
    told = answers([f"Summarise in one sentence: {path.read_text()}" for path in paths], model, server)
    for path, text in zip(paths, told, strict=True):
        print(f"{path.name}: {text}")
    return {path.name: text for path, text in zip(paths, told, strict=True)}


if __name__ == "__main__":
    summaries(sys.argv[2], sys.argv[1], sys.argv[3] if len(sys.argv) > 3 else None)
