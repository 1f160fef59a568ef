"""The ladder from end to end on a machine that only trains, its page, merging, and its statistics."""
import json
import subprocess
import sys

import numpy as np
import pytest

from baselines.ladder_fronts import FRONTS, _volume
from baselines.ladder_report import html, write_report
from baselines.ladder_scores import Scores, score_frames
from baselines.ladder_statistics import mean_of, overoptimization, student, win_rate
from baselines.ladder_summary import PLAN, RESULT, SCORES, TIMES, write_summary
from baselines.world import world_prompts
from evalkit.cli import main
from evalkit.data.scene import SPLITS, make_scene
from evalkit.data.synthetic import render_scenes
from evalkit.errors import UsageError
from evalkit.runner import evaluate

CLIMB = ("import sys, json, time\n"
         "for name in ('av', 'lpips', 'plotly', 'tyro', 'tensorboard'): sys.modules[name] = None\n"
         "from evalkit.cli import main\n"
         "from baselines import ladder\n"
         "ladder.LORA_SCALES, ladder.GUIDANCES, ladder.STEPS = (0.5,), (1.0,), (1,)\n"  # fewer points, of each kind one
         "run = ['baseline', 'ladder', '--preset', 'smoke', '--prompts', '2', '--device', 'cpu',\n"
         "       '--from', sys.argv[1], '--out', sys.argv[2]]\n"
         "assert main(run) == 0\n"
         "spent = json.load(open(sys.argv[2] + '/seconds.json'))\n"
         "assert main(run) == 0\n"
         "again = json.load(open(sys.argv[2] + '/seconds.json'))\n"
         "print(json.dumps({'first': sum(spent.values()), 'second': sum(again.values()) - sum(spent.values())}))\n")


@pytest.fixture(scope="module")
def climbed(pretrained, tmp_path_factory):
    """A finished ladder of the preset smoke, and what its two calls printed."""
    out = tmp_path_factory.mktemp("ladder") / "ladder"
    done = subprocess.run([sys.executable, "-c", CLIMB, str(pretrained), str(out)], check=True, timeout=400,
                          capture_output=True, text=True)
    return out, done.stdout.splitlines()


def test_the_ladder_climbs_without_pyav_and_plotly_and_a_second_call_does_nothing(climbed):
    out, printed = climbed
    found = json.loads((out / RESULT).read_text())
    assert list(found["rungs"]) == ["real", "pretrain", "sft", "best-of-n", "dpo", "dpo-unguarded", "dpo-guarded",
                                    "reward-gradient", "over-optimized"]
    assert {one["axis"] for one in found["points"]} == {"lora_scale", "guidance", "sampling_steps", "beta", "training"}
    assert all({"truth.overall", "farm", "guarded", "preference", "dynamic_degree", "diversity_mini"}
               <= set(one["scores"]) for one in [*found["rungs"].values(), *found["points"]])
    assert "lpips" in found["rungs"]["sft"]["without"]
    assert [one["title"] for one in found["fronts"]] == list(FRONTS)[:2]  # fvd_mini has too few clips here
    assert sum(f"--report {out}" in line for line in printed) == 2  # av is missed, and both calls say what to do
    seconds = json.loads(printed[-1])
    assert seconds["second"] < seconds["first"] / 3
    assert not list(out.rglob("*.mp4"))


def test_rungs_compare_the_same_prompts_and_the_distance_of_an_adapter_grows_with_its_scale(climbed):
    out, _ = climbed
    names = ("pretrain", "sft", "dpo", "over-optimized", "real")
    prompts = [Scores.load(out / SCORES / f"{name}.npz").prompts for name in names]
    assert all(one == prompts[0] for one in prompts) and prompts[0] == [p for p in world_prompts(2) for _ in (0, 1)]
    found = json.loads((out / RESULT).read_text())
    half = next(one for one in found["points"] if one["name"] == "dpo@lora_scale=0.5")
    assert 0 < half["kl"] < found["rungs"]["dpo"]["kl"]


def test_the_page_runs_nothing_of_a_prompt_and_has_its_sections(climbed, tmp_path):
    out, _ = climbed
    page = write_report(out).read_text()
    for section in ("trade-off", "samples", "scores", "training", "fronts", "over-optimization", "method"):
        assert f'<section id="{section}"' in page
    assert page.count("data:video/mp4") == 9
    bad = "<script>alert(1)</script>"
    found = json.loads((out / RESULT).read_text())
    found["facts"].append(bad)
    found["rungs"]["over-optimized"]["about"] = bad
    found["metrics"]["farm"]["summary"] = bad
    with np.load(out / "grids" / "sft.npz") as grid:
        kept = dict(grid)
    (tmp_path / "grids").mkdir()
    np.savez(tmp_path / "grids" / "over-optimized.npz", **kept | {"prompts": np.array([bad, bad])})
    page = html(found, tmp_path)
    assert bad not in page and page.count("&lt;script&gt;alert(1)") == 4 + 1  # of which a strip's two prompts


def test_folders_without_a_ladder_are_refused(tmp_path, capsys):
    with pytest.raises(UsageError, match=r"expected a ladder's ladder\.json"):
        write_report(tmp_path)
    (tmp_path / RESULT).write_text('{"kind": "another"}')
    with pytest.raises(UsageError, match="not what"):
        write_report(tmp_path)
    assert main(["baseline", "ladder", "--merge", str(tmp_path), "--out", str(tmp_path / "all")]) == 2
    assert "expected a finished ladder" in capsys.readouterr().err


def made_up(folder, seed, gain, prompts=40, spread=0.02, motion=9):
    """A ladder of two rungs: the truth rises by `gain` above noise, dynamic_degree falls, nothing else is there."""
    rng = np.random.default_rng(seed)
    names = [f"prompt {k // 2}" for k in range(2 * prompts)]
    base = np.random.default_rng(99).random(2 * prompts)
    values = {"sft": {"truth.overall": base, "dynamic_degree": 10 + base},
              "dpo": {"truth.overall": base + gain + rng.normal(0, spread, 2 * prompts),
                      "dynamic_degree": motion + base + rng.normal(0, spread, 2 * prompts)}}
    (folder / SCORES).mkdir(parents=True)
    for name, found in {**values, "reference": values["sft"], "real": values["sft"]}.items():
        Scores(names, found).save(folder / SCORES / f"{name}.npz")
        (folder / SCORES / f"{name}.json").write_text(json.dumps({"kl": 0.1} if name == "dpo" else {}))
    rungs = [{"name": name, "about": "", "parent": parent, "axis": "", "at": 0.0, "proxy": "", "lora_scale": 1.0}
             for name, parent in (("sft", ""), ("dpo", "sft"))]
    config = {"preset": "tiny", "seed": seed, "swept": prompts, "prompts": prompts, "samples": 2, "sample_steps": 20,
              "guidance": 3.0, "beta": 5.0}
    (folder / PLAN).write_text(json.dumps({"config": config, "rungs": rungs, "points": []}))
    (folder / TIMES).write_text("{}")
    return folder


def test_merged_ladders_hold_the_spread_of_their_training_seeds(tmp_path, capsys):
    gains = (0.1, 0.2, 0.3)
    folders = [made_up(tmp_path / str(k), k, gain) for k, gain in enumerate(gains)]
    assert main(["baseline", "ladder", "--merge", *map(str, folders), "--out", str(tmp_path / "all")]) == 0
    merged = json.loads((tmp_path / "all" / RESULT).read_text())
    one = json.loads(write_summary(folders[:1], folders[0]).read_text())
    change, alone = (found["comparisons"][0]["changes"]["truth.overall"] for found in (merged, one))
    assert merged["seeds"] == [0, 1, 2] and abs(change["value"] - 0.2) < 0.01
    width, narrow = (ends["ci95"][1] - ends["ci95"][0] for ends in (change, alone))
    t = 4.303  # Student's, two degrees of freedom: three seeds with means 0.1 apart
    assert abs(width / 2 - t * 0.1 / 3**0.5) < 0.03 and narrow < width / 10
    assert alone["verdict"] == "better" and one["comparisons"][0]["changes"]["dynamic_degree"]["verdict"] == "worse"
    page = (tmp_path / "all" / "report.html").read_text()
    assert "training seeds 0, 1, 2" in page and "truth.overall +0.2" not in page  # not clear with three such seeds
    assert "dynamic_degree -" in page
    again = made_up(tmp_path / "again", 1, 0.1)
    assert main(["baseline", "ladder", "--merge", str(folders[1]), str(again), "--out", str(tmp_path / "no")]) == 2
    assert "different training seeds" in capsys.readouterr().err


def test_an_interval_over_training_seeds_stays_within_what_the_score_can_be(tmp_path):
    folders = [made_up(tmp_path / str(k), k, 0.1, motion=motion) for k, motion in enumerate((1, 10, 19))]
    (tmp_path / "all").mkdir()
    scores = json.loads(write_summary(folders, tmp_path / "all").read_text())["rungs"]["dpo"]["scores"]
    low, high = scores["dynamic_degree"]["ci95"]
    assert low == 0.0 and high > 30  # Student's t of three such seeds asks for 10 +- 22


def test_a_win_rate_counts_ties_half_and_a_prompt_once():
    below, above = np.zeros((1, 4, 2)), np.array([[[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [-1.0, -1.0]]])
    found = win_rate(above, below)
    assert found.value == (1 + 0.75 + 0.5 + 0) / 4
    assert found.ci95[0] < 0.5 < found.ci95[1]


def test_means_of_several_seeds_follow_students_t():
    values = np.repeat([[1.0], [2.0], [6.0]], 5, axis=1)  # prompts do not vary: a plain t interval of three numbers
    found = mean_of(values)
    half = 4.3027 * np.std([1, 2, 6], ddof=1) / 3**0.5
    assert found.value == 3 and np.allclose(found.ci95, (3 - half, 3 + half), rtol=1e-4)
    assert student(1.0, [0.0], [3]).ci95 == (1.0, 1.0)


def test_the_overoptimization_fit_finds_the_law_it_was_made_from():
    d = np.array([0.1, 0.2, 0.4, 0.8])
    noise = np.random.default_rng(0).normal(0, 0.01, (4, 1, 200))
    fit = overoptimization(d, (d * (2.0 - 1.5 * d))[:, None, None] + noise)
    assert fit.a.ci95[0] < 2.0 < fit.a.ci95[1] and fit.b.ci95[0] < 1.5 < fit.b.ci95[1]
    assert abs(fit.peak - 2 / 3) < 0.01 and fit.r2 > 0.99
    assert overoptimization(d[:2], noise[:2]) is None


def test_scores_in_memory_are_those_of_evaluate():
    """Of what shrinks the frames, temporal_flicker alone here, but for how halves are rounded."""
    frames = render_scenes([make_scene(SPLITS["test"] + k, level="simple") for k in range(3)])
    prompts = world_prompts(3)
    names = ("temporal_flicker", "dynamic_degree", "clip_alignment_mini", "guarded", "preference")
    found = score_frames(frames, prompts, 8.0, "cpu", names)
    report = evaluate(frames, prompts=prompts, fps=8.0, metrics=names, workers=0, cache=None, device="cpu")
    for name in names:
        close = 2e-3 if name == "temporal_flicker" else 1e-5
        assert np.allclose(found.values[name], report.videos[name].to_numpy(float), rtol=1e-5, atol=close), name


def test_how_different_samples_of_a_prompt_are_is_kept_as_a_number_and_is_that_of_evaluate(assets, monkeypatch):
    monkeypatch.setenv("EVALKIT_WEIGHTS", str(assets / "weights"))
    seeds = (SPLITS["test"] + k for k in range(4))
    frames = render_scenes([make_scene(seed, level="simple") for seed in seeds])
    prompts = [prompt for prompt in world_prompts(2) for _ in (0, 1)]
    report = evaluate(frames, prompts=prompts, fps=8.0, metrics=["diversity"], workers=0, cache=None, device="cpu")
    found = score_frames(frames, prompts, 8.0, "cpu", ("diversity",))
    assert not found.features and found.values["diversity"].shape == (4,)
    assert found.values["diversity"][0] == found.values["diversity"][1] > 0
    assert found.values["diversity"].mean() == pytest.approx(report.scores["diversity"].value, rel=1e-4)
    alone = score_frames(frames[:2], prompts[1:3], 8.0, "cpu", ("diversity",))
    assert "diversity" not in alone.values and "samples of one prompt" in alone.without["diversity"]


def test_a_front_covers_no_distance_below_0():
    prompts = 16
    cube = np.stack([np.full((1, prompts), 0.1), np.full((1, prompts), 3.0)])  # (rows, objectives, prompts)
    cube[0, 0] += np.linspace(-20, 20, prompts)  # known badly: draws of its mean lie below 0
    assert _volume(cube, [4.0], [False], [0.0])["ci95"][1] <= 4.0 < _volume(cube, [4.0], [False], [-np.inf])["ci95"][1]
