"""What a second region is worth, and what a wait: the same drawn batches on a virtual clock, by four ways to decide.

python examples/two_regions.py [DE,SE] [DAYS]

Needs no server, only `pip install 'batchsched[server]'`. Home is the first zone; each has two pools, and two in five batches may
run anywhere. Without data the weather is drawn. With `BATCHSCHED_DATA` set, forecasts are as they were issued, and what came true
is paid (docs/simulate.md).
"""

import json
import subprocess
import sys

WAYS = {
    "run now": "at once, at home",
    "cleanest place": "at once, in the cleaner place",
    "lowest window": "once, in the cleanest window of all places",
    "greedy": "batchsched: anew each hour, as forecasts come",
}
BAR = 40

zones, days = (sys.argv[1:] + ["DE,SE", "4"][len(sys.argv) - 1 :])[:2]
command = [sys.executable, "-m", "batchsched.cli", "simulate", "--quick", "--json", "--zones", zones, "--days", days]
for way in WAYS:
    command += ["--policy", way]
told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)

print(f"{told['batches']} batches, home {told['zones'][0]}, {told['truth']}")
most = max(row["grams"] for row in told["policies"])
for row in told["policies"]:
    bar = "#" * round(BAR * row["grams"] / most)
    print(f"{WAYS[row['policy']]:<47} {bar:<{BAR}} {row['grams'] / 1000:6.2f} kg, {row['missed']} late")
