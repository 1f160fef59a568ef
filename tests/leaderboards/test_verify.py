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
from evalkit.results import Report, protocol_id
from evalkit.statistics import cluster_bootstrap
from leaderboards.boards_init import init_board
from leaderboards.checks import check_submission
from leaderboards.fields import BoardError
from leaderboards.reading import read_board, read_submission
from leaderboards.schema import FileEntry, Generation
from leaderboards.submissions import add_run, rewrite
from leaderboards.verify import Scoring, compare, locate_samples, verify_submission

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


@pytest.fixture
def rescored(scored):
    """The scoring of all samples, and set metrics as they follow from its features."""
    again = Report.load(scored / "run")
    return again, {"fvd_mini": {"value": again.scores["fvd_mini"].value, "ci95": again.scores["fvd_mini"].ci95}}


def test_features_that_are_not_the_samples_are_caught_though_the_score_follows_from_them(scored, copied, rescored):
    _, row = copied
    part = locate_samples(row.read_videos(), scored / "samples")
    assert compare(row, part.iloc[:9], *rescored)["fvd_mini"] == 0
    features = row.read_features()["fvd_mini"]
    features[4] *= np.float32(1.01)
    row = rewrite(replace(row, features=write(row, "features.safetensors", save({"fvd_mini": features}))))
    assert compare(row, part.iloc[:9], *rescored)["fvd_mini"] > 0.002
    assert compare(row, part.iloc[:4], *rescored)["fvd_mini"] == 0


def test_the_worst_half_called_errors_earns_no_badge(scored, copied, rescored):
    board, row = copied
    table, scores = row.read_videos(), dict(row.scores)
    worst = table["artifacts"].sort_values().index[64:]
    table.loc[worst, [name for name in table if name.startswith(("artifacts", "temporal_flicker"))]] = np.nan
    table["error"] = table["error"].astype(object)
    table.loc[worst, "error"] = "artifacts: cannot be decoded"
    good = table.drop(index=worst)
    for name in METRICS[:2]:
        interval = cluster_bootstrap(good[name], good["video"].tolist(), seed=row.seed)
        scores[name] = replace(scores[name], value=float(good[name].mean()), ci95=interval, n=64)
    assert scores["artifacts"].value < row.scores["artifacts"].value  # better
    row = rewrite(replace(row, scores=scores, counts={"found": 128, "scored": 64, "failed": 64},
                          videos=write(row, "videos.parquet", table.to_parquet(index=False))))
    check_submission(row, board)
    deviations = compare(row, locate_samples(row.read_videos(), scored / "samples"), *rescored)
    assert deviations["artifacts"] == deviations["temporal_flicker"] == np.inf


def test_an_invented_score_is_caught_whichever_video_has_it(scored, copied, rescored):
    _, row = copied
    part = locate_samples(row.read_videos(), scored / "samples")
    assert compare(row, part, *rescored)["artifacts"] == 0
    for i in (0, 77, 127):
        forged = part.copy()
        forged.loc[i, "artifacts"] *= 0.9
        assert compare(row, forged, *rescored)["artifacts"] > 0.01


def test_the_best_video_under_many_names_is_refused_and_so_are_more_samples_of_one_prompt(copied):
    board, row = copied
    table = row.read_videos()
    best = table.loc[[int(table["artifacts"].argmin())]]
    copies = pd.concat([table, *(best.assign(video=f"x{i}.npy") for i in range(10))], ignore_index=True)
    counted = replace(row, counts={"found": 138, "scored": 138, "failed": 0})
    row = rewrite(replace(counted, videos=write(row, "videos.parquet", copies.to_parquet(index=False))))
    with pytest.raises(BoardError, match="got one content under 11 names"):
        check_submission(row, board)
    changed = copies.assign(content=[f"{i:064x}" for i in range(138)])  # each re-encoded
    row = rewrite(replace(row, videos=write(row, "videos.parquet", changed.to_parquet(index=False))))
    with pytest.raises(BoardError, match="expected 128 samples of each prompt as the board's first row has, got 138"):
        check_submission(row, board)
    uneven = changed.assign(prompt=["a"] * 100 + ["b"] * 38)
    row = rewrite(replace(row, videos=write(row, "videos.parquet", uneven.to_parquet(index=False))))
    with pytest.raises(BoardError, match="as many samples of each prompt, got 100 of 'a' and 38 of 'b'"):
        check_submission(row, board)


def test_a_link_out_of_the_samples_is_not_read(scored, copied, tmp_path):
    _, row = copied
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "000.npy").symlink_to(scored / "samples" / "000.npy")
    with pytest.raises(BoardError, match="1 of 1 drawn samples lie outside"):
        locate_samples(row.read_videos().iloc[:1], tmp_path / "samples")


def test_votes_are_not_scored_again_and_that_is_said(copied):
    _, row = copied
    protocol = {"metric": "arena_overall", "version": 1, "models": ["a", "b"]}
    vote = replace(row.scores["artifacts"], protocol=protocol_id(protocol))
    row = replace(row, scores={**row.scores, "arena_overall": vote},
                  protocols={**row.protocols, protocol_id(protocol): protocol})
    assert row.rescorable == METRICS


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
