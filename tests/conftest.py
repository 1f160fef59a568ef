"""Shared fixtures. Real clips and weights lie outside the repository; tests skip where they are absent."""
from pathlib import Path

import pytest
import torch

ASSETS = Path(__file__).resolve().parents[2] / "shared" / "assets"

torch.set_num_threads(1)  # as evalkit uses cores; tests run in as many processes as there are


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real clips, ratings, prompts and weights."""
    if not ASSETS.is_dir():
        pytest.skip(f"real clips and weights are absent: {ASSETS}")
    return ASSETS
