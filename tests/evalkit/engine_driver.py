"""Scores a folder in a process of its own: `engine_driver.py SAMPLES REFERENCE OUT`, also under torchrun."""
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from engine_metrics import ALL

from evalkit import evaluate

if __name__ == "__main__":
    samples, reference, out = sys.argv[1:]
    cache = os.environ.get("EVALKIT_CACHE")
    report = evaluate(samples, metrics=ALL, reference=reference, cache=cache, workers=1, device="cpu")
    if os.environ.get("RANK", "0") == "0":
        report.save(out)
