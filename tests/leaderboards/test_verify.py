"""Real files, scored in processes: what is claimed against what scoring gives."""
import hashlib
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save

from evalkit import build_reference, evaluate
from evalkit.cli import main
from evalkit.errors import UsageError
from evalkit.results import Report
from evalkit.statistics import cluster_bootstrap
from leaderboards.boards_init import init_board
from leaderboards.fields import BoardError
from leaderboards.reading import read_board, read_submission
from leaderboards.schema import FileEntry, Generation
from leaderboards.submissions import add_run, rewrite
from leaderboards.verify import Scoring, _deviation_of_features, verify_submission

METRICS = ["temporal_flicker", "artifacts", "fvd_mini"]


def write_clips(folder, seed, count=128):
    """Clips of a drifting pattern, 16 frames of 32 x 32."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    for i in range(count):
        angle, phase = rng.uniform(0, np.pi), 0.4 * rng.normal() * np.arange(16)[:, None, None]
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) / 4 + phase)
        grey = 128 + 60 * wave + rng.normal(scale=rng.uniform(0, 20), size=wave.shape)
        np.save(folder / f"{i:03d}.npy", np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=3))


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A board with one row, the samples behind it, and the reference of its set metric."""
    folder = tmp_path_factory.mktemp("scored")
    for seed, name in enumerate(("samples", "real")):
        write_clips(folder / name, seed)
    options = {"cache": None, "workers": 1}
    lines = "".join(f"real/{path.name},8\n" for path in sorted((folder / "real").iterdir()))
    (folder / "real.csv").write_text(f"path,fps\n{lines}")
    reference, _ = build_reference(str(folder / "real.csv"), metrics=["fvd_mini"], **options)
    reference.save(folder / "real.safetensors")
    report = evaluate(str(folder / "samples"), fps=8.0, metrics=METRICS, reference=reference, **options)
    report.save(folder / "run")
    board = init_board(folder / "boards" / "t.json", metrics=METRICS)
    add_run(board, folder / "run", "ours", generation=Generation((0,), False, "none", None, (32, 32), 8.0))
    return folder


@pytest.fixture
def copied(scored, tmp_path):
    """The board and its row, to be changed."""
    for name in ("boards", "submissions"):
        shutil.copytree(scored / name, tmp_path / name)
    return read_board(tmp_path / "boards" / "t.json"), read_submission(tmp_path / "submissions" / "t" / "ours.json")


def verify(scored, board, row, share=0.05):
    scoring = Scoring(str(scored / "real.safetensors"), device="cpu", workers=1)
    return verify_submission(board, row, scored / "samples", by="a test", share=share, seed=0, scoring=scoring)


def write(row, name, data):
    row.locate(f"{row.slug}/{name}").write_bytes(data)
    return FileEntry(f"{row.slug}/{name}", hashlib.sha256(data).hexdigest(), len(data))


def inflate(row, share):
    """Every score 1 + share times as high, as a careful cheat would: tables, intervals, features and hashes agree."""
    table, scores = row.read_videos(), dict(row.scores)
    for name in ("temporal_flicker", "artifacts"):
        table[name] *= 1 + share
        interval = cluster_bootstrap(table[name], table["video"].tolist(), seed=row.seed)
        scores[name] = replace(scores[name], value=float(table[name].mean()), ci95=interval)
    scores["fvd_mini"] = replace(scores["fvd_mini"], value=scores["fvd_mini"].value * (1 - share))
    return rewrite(replace(row, scores=scores, videos=write(row, "videos.parquet", table.to_parquet(index=False))))


def test_an_honest_row_earns_the_badge(scored, copied, capsys):
    board, row = copied
    assert main(["leaderboard", "verify", "ours", "--board", str(board.path), "--samples", str(scored / "samples"),
                 "--reference", str(scored / "real.safetensors"), "--share", "0.05", "--by", "a test",
                 "--device", "cpu", "--workers", "1"]) == 0
    assert "7 videos (5%) scored again: verified by a test" in capsys.readouterr().out
    verified = read_submission(row.path)
    assert verified.status == "verified" and set(verified.verification.deviations) == set(METRICS)
    assert verified.verification.largest[1] < 1e-6


def test_an_inflation_of_1_percent_is_caught_in_every_score(scored, copied):
    board, row = copied
    unbounded = {name: replace(metric, range=(None, None)) for name, metric in board.metrics.items()}
    board = replace(board, metrics=unbounded)
    outcome = verify(scored, board, inflate(row, 0.01))
    assert set(outcome.excess) == set(METRICS)
    assert all(0.005 < deviation < 0.1 for deviation in outcome.verification.deviations.values())


def test_features_that_are_not_the_samples_are_caught_though_the_score_follows_from_them(scored, copied):
    _, row = copied
    table, again = row.read_videos(), Report.load(scored / "run")
    assert _deviation_of_features(row, table, range(9), again, "fvd_mini") == 0
    features = row.read_features()["fvd_mini"]
    features[4] *= np.float32(1.01)
    row = rewrite(replace(row, features=write(row, "features.safetensors", save({"fvd_mini": features}))))
    assert _deviation_of_features(row, table, range(9), again, "fvd_mini") > 0.002
    assert _deviation_of_features(row, table, range(4), again, "fvd_mini") == 0


@pytest.mark.parametrize("name", ["temporal_flicker", "artifacts"])
def test_a_score_inflated_without_its_table_is_refused_before_anything_is_scored(scored, copied, name):
    board, row = copied
    score = row.scores[name]
    forged = replace(score, value=score.value + 0.4 * (score.ci95[1] - score.value))
    row = rewrite(replace(row, scores={**row.scores, name: forged}))
    with pytest.raises(BoardError, match="the table's mean is"):
        verify(scored, board, row)


def test_samples_other_than_those_scored_are_refused(scored, copied, tmp_path):
    board, row = copied
    other = tmp_path / "other"
    other.mkdir()
    for i in range(128):
        shutil.copy(scored / "samples" / f"{(i + 1) % 128:03d}.npy", other / f"{i:03d}.npy")
    with pytest.raises(BoardError, match="are other files than those that were scored"):
        verify_submission(board, row, other, by="a test", share=0.05, scoring=Scoring(reference="real"))


def test_missing_samples_a_missing_reference_and_a_strange_share_are_refused(scored, copied, tmp_path):
    board, row = copied
    with pytest.raises(BoardError, match="7 of 7 drawn samples are not there"):
        verify_submission(board, row, tmp_path, by="a test", share=0.05, scoring=Scoring(reference="real"))
    with pytest.raises(UsageError, match="--share: expected a number above 0"):
        verify(scored, board, row, share=0)
    with pytest.raises(UsageError, match="fvd_mini: give the --reference"):
        verify_submission(board, row, scored / "samples", by="a test")


def test_a_tampered_table_is_refused_by_its_hash(scored, copied):
    board, row = copied
    table = pd.read_parquet(row.locate(row.videos))
    row.locate(row.videos).write_bytes(table.assign(farm=1.0).to_parquet(index=False))
    with pytest.raises(BoardError, match="the file was changed"):
        verify(scored, board, row)
