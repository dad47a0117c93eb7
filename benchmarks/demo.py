"""The demo's gap to the entropy floor, its training time and what its table knows, over seeds.

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
        countable = [row for row in report["analogies"].values() if row["ppmi"] >= 0.5]
        after, ppmi = (sum(row[key] for row in countable) / len(countable) for key in ("after", "ppmi"))
        knows = {
            "gender": report["analogies"]["gender"],
            "families": len(countable),
            "after": after,
            "ppmi": ppmi,
            "after_over_ppmi": after / ppmi,
            "probes": {name: [row["after"], row["control"]] for name, row in report["probes"].items()},
        }
        print(json.dumps({"seed": seed, **{key: report[key] for key in keys}, **knows}), flush=True)


if __name__ == "__main__":
    main()
