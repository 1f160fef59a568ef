"""The recommended composite: FARM, guarded by three rewards that look with other eyes."""
from __future__ import annotations

import torch

from rewards.artifact_detector import ArtifactDetector
from rewards.artifacts import Artifacts
from rewards.combined import AS_IT_IS, Combined, Term
from rewards.farm import Farm
from rewards.flicker import TemporalFlicker

# Found on the tuning part of the hack suite (`hack_clips`): benchmarks/guarded.md tells what each guard is there for.
WEIGHTS = {"farm": 1.0, "artifact_detector": 1.0, "artifacts": 0.5, "temporal_flicker": 0.5}
