"""Shared fixtures. Real clips and weights lie outside the repository; tests skip where they are absent."""
import os
from pathlib import Path

import pytest
import torch

ASSETS = Path(__file__).resolve().parents[2] / "shared" / "assets"

# As evalkit uses cores: tests run in as many processes as there are, and so do the commands that they start.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):  # these import thousands of modules each: compiled once, elsewhere
    os.environ["PYTHONPYCACHEPREFIX"] = str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "bytecode")


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real clips, ratings, prompts and weights."""
    if not ASSETS.is_dir():
        pytest.skip(f"real clips and weights are absent: {ASSETS}")
    return ASSETS
