"""The demo's gap to the entropy floor and its training time, over seeds.

python benchmarks/demo.py --seeds 3
"""

import argparse
import json
import subprocess
import sys
import tempfile


def main() -> None:
    """Run the demo once a seed and print one JSON line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "llamita", "demo", "--run", f"{folder}/run", "--seed", str(seed), "--json"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        report = json.loads(done.stdout)
        keys = ("val_loss", "floor", "gap", "seconds", "total_seconds", "parameters", "tokens")
        print(json.dumps({"seed": seed, **{key: report[key] for key in keys}}), flush=True)


if __name__ == "__main__":
    main()
