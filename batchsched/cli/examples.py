"""An example of each command, shown at the end of its help."""

from __future__ import annotations

import click

EXAMPLES = {
    "run": "run requests.jsonl --model ./my-model --deadline 6h",
    "demo": "demo",
    "init": "init",
    "doctor": "doctor --config batchsched.toml",
    "validate": "validate requests.jsonl",
    "config show": "config show --origin",
    "serve": "serve --port 8424 --data-dir /var/lib/batchsched",
    "backup": "backup /backups/monday",
    "migrate": "migrate --dry-run",
    "worker": "worker --server https://batch.example --pool old-t4",
    "top": "top --every 5",
    "submit": "submit requests.jsonl --deadline 6h --wait",
    "list": "list --limit 10",
    "show": "show batch_1a2b",
    "wait": "wait batch_1a2b",
    "results": "results batch_1a2b --follow",
    "cancel": "cancel batch_1a2b --dry-run",
    "retry": "retry batch_1a2b --deadline 3h",
    "pause": "pause batch_1a2b",
    "resume": "resume batch_1a2b",
    "start": "start batch_1a2b",
    "update": "update batch_1a2b --deadline 12h",
    "explain": "explain batch_1a2b",
    "report": "report batch_1a2b --plot report.svg",
    "plan show": "plan show --all",
    "plan what-if": "plan what-if --pool old-t4=+2",
    "plan replay": "plan replay",
    "plan freeze": "plan freeze --until 2h",
    "plan unfreeze": "plan unfreeze",
    "window add": 'window add nights --pool old-t4 --cron "0 22 * * mon-fri" --duration 8h --tz Europe/Berlin',
    "window list": "window list",
    "window show": "window show nights",
    "window pause": "window pause nights --until 3d",
    "window resume": "window resume nights",
    "window skip": "window skip nights",
    "window extend": "window extend nights --by 2h",
    "window remove": "window remove nights --dry-run",
    "schedule add": 'schedule add nightly --cron "0 20 * * *" --file prompts-{date}.jsonl --deadline 10h',
    "schedule list": "schedule list",
    "schedule show": "schedule show nightly",
    "schedule pause": "schedule pause nightly",
    "schedule resume": "schedule resume nightly",
    "schedule remove": "schedule remove nightly",
    "schedule history": "schedule history nightly --limit 5",
    "pool list": "pool list",
    "pool cordon": "pool cordon old-t4 --until 2h",
    "pool drain": "pool drain old-t4 --dry-run",
    "pool open": "pool open old-t4",
    "profile run": "profile run --pool old-t4 --model my-model",
    "profile show": "profile show",
    "profile compare": "profile compare my-model",
    "forecast show": "forecast show DE --hours 24",
    "forecast zones": "forecast zones",
    "forecast import": "forecast import grid.csv --provider mine",
    "forecast backfill": "forecast backfill DE --from 2026-01-01",
    "forecast train": "forecast train DE",
    "forecast evaluate": "forecast evaluate DE",
    "carbon hardware": "carbon hardware T4 --explain",
    "carbon compare": "carbon compare T4 V100 A100-40",
    "carbon crossover": "carbon crossover T4",
    "carbon what-if": "carbon what-if T4 --zone DE --utilisation 0.5",
    "carbon reproduce greenllm": "carbon reproduce greenllm",
    "carbon reproduce ecoserve": "carbon reproduce ecoserve",
    "simulate": "simulate --days 3 --zones PJM,CISO --policy greedy",
    "simulate compare": "simulate compare out/greedy out/EDF",
    "audit": "audit --act pool --from 2026-05-01",
    "key create": "key create --name ci --tenant team --scope submit --scope read --expires 90d",
    "key list": "key list",
    "key revoke": "key revoke key_1a2b",
    "completion": "completion bash",
}
"""By the command's whole name."""


def give(name: str, command: click.Command) -> None:
    """Put the example below the help of a command, and of each that it holds."""
    if name in EXAMPLES:
        command.epilog = f"Example: batchsched {EXAMPLES[name]}"
    if isinstance(command, click.Group):
        for below, one in command.commands.items():
            give(f"{name} {below}", one)
