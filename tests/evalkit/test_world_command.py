"""evalkit world: what it writes, prints and refuses. How right the oracle is, benchmarks/oracle.py measures."""
import json

import pytest
from PIL import Image

from evalkit.cli import main
from evalkit.data.captions import FACTORS, REGISTERS, caption
from evalkit.data.contact_sheet import draw_scene
from evalkit.data.scene import make_scene
from evalkit.data.video import VideoInfo, probe
from evalkit.features.weights import MissingWeights


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Four clips of the test split."""
    folder = tmp_path_factory.mktemp("world")
    assert main(["world", "render", "--n", "4", "--out", str(folder), "--split", "test", "--workers", "1"]) == 0
    return folder


def run(*arguments, capsys) -> tuple[int, str, str]:
    code = main(["world", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_render_writes_clips_with_captions_and_says_where(rendered, capsys):
    rows = [json.loads(line) for line in (rendered / "prompts.jsonl").read_text().splitlines()]
    assert [row["seed"] for row in rows] == [1_000_000 + k for k in range(4)]
    info = probe(rendered / rows[0]["path"])
    assert isinstance(info, VideoInfo) and (info.frames, info.fps, info.width, info.height) == (16, 8, 64, 64)
    code, out, _ = run("render", "--n", 4, "--out", rendered, "--split", "test", capsys=capsys)
    assert code == 0 and "clips: 0 rendered, 4 there already" in out and str(rendered / "prompts.jsonl") in out


def test_render_goes_on_where_it_was_stopped(tmp_path, capsys):
    base = ("render", "--out", tmp_path, "--frames", 4, "--fps", 4, "--size", 32, "--level", "simple", "--first", 7)
    assert run(*base, "--n", 2, capsys=capsys)[0] == 0
    code, out, _ = run(*base, "--n", 3, "--workers", 2, capsys=capsys)
    assert code == 0 and "clips: 1 rendered, 2 there already" in out
    rows = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert [row["seed"] for row in rows] == [7, 8, 9] and {row["fps"] for row in rows} == {4}


@pytest.mark.parametrize(("option", "value", "told"), [
    ("--frames", 8, "frames 16 there, 8 asked for"), ("--fps", 4, "fps 8.0 there, 4.0"),
    ("--size", 32, "size 64 there, 32"), ("--level", "simple", "level full there, simple"),
    ("--split", "train", "split test there, train")])
def test_a_folder_of_other_clips_is_not_mixed_and_what_differs_is_named(rendered, capsys, option, value, told):
    before = {path.name for path in rendered.iterdir()}
    split = [] if option == "--split" else ["--split", "test"]
    code, _, err = run("render", "--n", 9, "--out", rendered, *split, option, value, capsys=capsys)
    assert code == 2 and told in err and "another --out" in err
    assert {path.name for path in rendered.iterdir()} == before


@pytest.mark.parametrize("settings", [None, "nonsense", "3"])
def test_a_folder_whose_making_is_not_known_is_not_written_to(tmp_path, capsys, settings):
    (tmp_path / "prompts.jsonl").write_text('{"path": "a.mp4", "prompt": "a red star", "seed": 0}\n')
    if settings is not None:
        (tmp_path / "world.json").write_text(settings)
    code, _, err = run("render", "--n", 1, "--out", tmp_path, capsys=capsys)
    assert code == 2 and "world.json does not say how" in err


@pytest.mark.parametrize(("arguments", "message"), [
    (["render", "--n", 0, "--out", "OUT"], "positive --n"),
    (["render", "--fps", "nan", "--out", "OUT"], "positive --n, --frames, --fps"),
    (["render", "--first", -1, "--out", "OUT"], "--first of 0 or more"),
    (["render", "--first", 999_999, "--n", 2, "--out", "OUT"], "the train split has 1000000 scenes"),
    (["render", "--split", "dev", "--out", "OUT"], "train, test, compositional"),
    (["render", "--n", 1, "--out", "/proc/no"], "cannot write there"),
    (["show", "--seed", -3], "--seed of 0 or more"),
    (["show", "--seed", 1, "--frames", 17], "1 to 16 --frames"),
    (["show", "--seed", 1, "--defect", "blurr:3"], "names: banding, blocks"),
    (["show", "--seed", 1, "--defect", "blur"], "NAME:1 to NAME:5"),
    (["show", "--seed", 1, "--out", "OUT/sheet.txt"], "ending in .png"),
    (["show", "--seed", 1, "--out", "/proc/no/sheet.png"], "cannot write there"),
    (["read", "no/such/folder"], "found nothing at no/such/folder"),
    (["read", "WORLD", "--json", "/proc/no/r.json"], "cannot write there"),
    (["train", "oracel", "--out", "OUT"], "unknown network oracel; there are: oracle, video, clip, defects"),
    (["train", "video", "--steps", 0, "--out", "OUT"], "positive --minutes, --steps"),
    (["train", "video", "--out", "/proc/no"], "cannot write there"),
])
def test_what_cannot_be_done_exits_2_with_one_clear_line(rendered, capsys, tmp_path, arguments, message):
    words = [str(word).replace("OUT", str(tmp_path)).replace("WORLD", str(rendered)) for word in arguments]
    code, _, err = run(*words, capsys=capsys)
    assert code == 2 and message in err and "Traceback" not in err and not any(tmp_path.iterdir())


def test_show_draws_a_sheet_and_prints_the_captions(tmp_path, capsys):
    path = tmp_path / "sheet.png"
    code, out, _ = run("show", "--seed", 7, "--out", path, "--frames", 5, "--size", 100, "--defect", "blur:3",
                       capsys=capsys)
    assert code == 0 and out.splitlines()[-1] == str(path)
    assert all(caption(make_scene(7), register) in out for register in REGISTERS)
    with Image.open(path) as sheet:
        assert min(sheet.size) > 300 and len(set(sheet.convert("L").getdata())) > 100


@pytest.mark.parametrize(("frames", "size"), [(1, 32), (3, 64), (4, 200), (16, 96)])
def test_a_sheet_holds_its_frames_in_one_or_two_rows(frames, size):
    sheet = draw_scene(make_scene(2), None, frames, size)
    columns = frames if frames <= 4 else (frames + 1) // 2
    assert sheet.width > columns * size and sheet.height > size * (1 + (frames > 4))


def test_read_prints_a_line_a_video_and_shares_with_intervals_and_writes_all_of_it(rendered, capsys, tmp_path):
    code, out, _ = run("read", rendered, "--prompts", rendered / "prompts.jsonl", "--json", tmp_path / "r.json",
                       capsys=capsys)
    assert code == 0 and "videos: 4 found, 0 failed" in out
    assert all(out.count(f"100000{k}.mp4: ") == 1 for k in range(4))
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["failed"] == 0 and [video["path"] for video in found["videos"]] == [f"100000{k}.mp4" for k in range(4)]
    for video in found["videos"]:
        assert set(video["factors"]) == set(FACTORS) and {"shape", "colour"} <= set(video["claims"]) <= set(FACTORS)
    everything = found["shares"]["everything"]
    held = sum(all(video["claims"].values()) for video in found["videos"])
    assert everything["n"] == 4 and everything["share"] == held / 4
    assert 0 <= everything["ci95"][0] <= held / 4 <= everything["ci95"][1] <= 1
    assert f"everything     {held / 4:.3f}  [" in out and "n = 4" in out


def test_read_needs_no_prompts(rendered, capsys):
    code, out, _ = run("read", rendered, capsys=capsys)
    assert code == 0 and "camera" in out and "share of clips" not in out


def test_read_takes_the_prompts_of_a_manifest(rendered, capsys):
    code, out, _ = run("read", rendered / "prompts.jsonl", capsys=capsys)
    assert code == 0 and "everything " in out


def test_broken_videos_and_prompts_of_no_world_are_failures_of_their_own_clip(rendered, capsys, tmp_path):
    rows = [json.loads(line) for line in (rendered / "prompts.jsonl").read_text().splitlines()[:2]]
    for row in rows:
        (tmp_path / row["path"]).write_bytes((rendered / row["path"]).read_bytes())
    (tmp_path / "broken.mp4").write_bytes(b"\0" * 100)
    prompts = [rows[0], rows[1] | {"prompt": "two dogs at the sea"}, {"path": "broken.mp4", "prompt": "a red star"}]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"path": row["path"], "prompt": row["prompt"]}) + "\n"
                                                    for row in prompts))
    code, out, _ = run("read", tmp_path, "--prompts", tmp_path / "prompts.jsonl", "--json", tmp_path / "r.json",
                       capsys=capsys)
    assert code == 3 and "videos: 3 found, 2 failed" in out
    assert "broken.mp4: cannot be read: " in out and "its prompt is not of this world" in out
    assert "1000001.mp4: prompt: expected a text" in out and "two dogs at the sea" in out
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["failed"] == 2 and found["shares"]["everything"]["n"] == 1
    assert [("factors" in video, "error" in video) for video in found["videos"]] == [
        (True, False), (True, True), (False, True)]


def test_a_clip_shorter_than_the_oracle_reads_is_a_failure_with_its_reason(tmp_path, capsys):
    run("render", "--n", 1, "--out", tmp_path, "--frames", 6, capsys=capsys)
    code, out, _ = run("read", tmp_path, capsys=capsys)
    assert code == 3 and "videos: 1 found, 1 failed" in out and "16" in out


def test_read_without_the_oracles_weights_says_how_to_get_them(rendered, capsys, monkeypatch):
    def missing():
        raise MissingWeights("the weights oracle do not ship; get them with: evalkit world train oracle")

    monkeypatch.setattr("evalkit.data.oracle.load_oracle", missing)
    code, out, err = run("read", rendered, capsys=capsys)
    assert code == 2 and "get them with: evalkit world train oracle" in err and not out


def test_train_says_how_it_goes_and_what_it_wrote(tmp_path, capsys):
    from evalkit.features.weights import sha256_of

    code, out, _ = run("train", "video", "--out", tmp_path, "--steps", 2, "--batch-size", 4, "--remember", 64,
                       "--device", "cpu", "--workers", 0, capsys=capsys)
    path = tmp_path / "video.safetensors"
    assert code == 0 and "step 2, " in out and "severity" in out
    assert str(path) in out and "MiB" in out and sha256_of(path) in out
