"""What others submit is refused for what is wrong with it, each thing in its own words."""
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from boards import make_board, protocol_of
from safetensors.numpy import load_file, save

from evalkit.results import protocol_id
from leaderboards.checks import check_submission
from leaderboards.fields import BoardError
from leaderboards.reading import read_board, read_board_rows, read_submission

SLUG = "model-00"


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A board of two models, 6 prompts each."""
    folder = tmp_path_factory.mktemp("clean")
    board = make_board(folder, models=2, prompts=6, references=False)
    content = json.loads(board.path.read_text())
    content["metrics"]["artifacts"]["range"] = [-10, 10]
    board.path.write_text(json.dumps(content))
    return folder


def check(folder):
    board = read_board(folder / "boards" / "simulated.json")
    for row in read_board_rows(board):
        check_submission(row, board)


def path_of(folder, slug=SLUG):
    return folder / "submissions" / "simulated" / f"{slug}.json"


def edit(change):
    """A case that changes the JSON."""
    def apply(folder):
        path = path_of(folder)
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    return apply


def put(*keys, value):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value
    return edit(change)


def drop(*keys):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]
    return edit(change)


def raw(text):
    return lambda folder: path_of(folder).write_text(text)


def replace(old, new):
    def apply(folder):
        text = path_of(folder).read_text()
        assert old in text
        path_of(folder).write_text(text.replace(old, new, 1))
    return apply


def refile(name, data):
    """A case that replaces a file, and states the hash of what it puts there."""
    def apply(folder):
        key = name.partition(".")[0]
        found = data(folder / "submissions" / "simulated" / SLUG / name) if callable(data) else data
        (folder / "submissions" / "simulated" / SLUG / name).write_bytes(found)
        put(key, value={"path": f"{SLUG}/{name}", "sha256": hashlib.sha256(found).hexdigest(),
                        "bytes": len(found)})(folder)
    return apply


def retable(change):
    def data(path):
        table = pd.read_parquet(path)
        return (table if (changed := change(table)) is None else changed).to_parquet(index=False)
    return refile("videos.parquet", data)


def refeature(change):
    return refile("features.safetensors", lambda path: save(change(load_file(path))))


def file(name, data=b"x"):
    def apply(folder):
        path = folder / "submissions" / "simulated" / SLUG / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return apply


def tamper(folder):
    path = folder / "submissions" / "simulated" / SLUG / "videos.parquet"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def link(folder):
    path = folder / "submissions" / "simulated" / SLUG / "videos.parquet"
    path.rename(folder / "elsewhere.parquet")
    path.symlink_to(folder / "elsewhere.parquet")


def both(*cases):
    return lambda folder: [case(folder) for case in cases]


def other_protocol(content):
    changed = protocol_of("farm") | {"clips": {"num_frames": 32}}
    content["protocols"][protocol_id(changed)] = changed
    content["scores"]["farm"]["protocol"] = protocol_id(changed)


def tell(table, column, row, value):
    table.loc[row, column] = value


def badge(extra=None, **fields):
    """A case in which someone writes a verification by hand, and its hash too."""
    def apply(folder):
        row = read_submission(path_of(folder))
        found = {"by": "the maintainers", "date": "2026-11-01", "share": 1.0, "videos": 6,
                 "deviations": dict.fromkeys(row.rescorable, 0.0) | (extra or {}), "scored": row.scored_sha256} | fields
        put("verification", value=found)(folder)
    return apply


def bomb():
    """15 kB of Parquet: one text of a megabyte that 3000 rows name."""
    once = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), pa.array(["x" * 10**6]))
    table = pa.table({"video": [str(i) for i in range(3000)], "prompt": once, "seed": [0] * 3000,
                      "content": [f"{i:x}" for i in range(3000)], "error": pa.nulls(3000, pa.string())})
    pq.write_table(table, found := io.BytesIO(), compression="zstd", store_schema=False)
    return found.getvalue()


TOMORROW = (datetime.now(UTC).date() + timedelta(days=1)).isoformat()
FARM = ("scores", "farm")
CASES = {
    # the JSON as such
    "no JSON": (raw("{"), "not valid JSON: Expecting property name"),
    "a list": (raw("[]"), "expected an object, got list"),
    "NaN": (replace('"guidance": 5.0', '"guidance": NaN'), "expected a finite number, got NaN"),
    "a key twice": (replace('"seed": 0', '"seed": 0, "seed": 1'), "key 'seed' stands there twice"),
    "nested without end": (raw("[" * 100_000), "nested without end"),
    "too large": (put("commit", value="0" * 2**20), "expected at most 1048576 bytes"),
    # keys, types, limits
    "other schema": (put("schema", value="leaderboards.submission/9"), "expected schema 'leaderboards.submission/1'"),
    "unknown key": (put("rank", value=1), "unknown key 'rank'"),
    "unknown key in a score": (put(*FARM, "p", value=1), "scores.farm: unknown key 'p'"),
    "missing key": (drop("submitted"), "'submitted' is missing"),
    "a number as text": (put(*FARM, "value", value="0.7"), "scores.farm: value: expected a number or null, got '0.7'"),
    "a truth as number": (put("generation", "fps", value=True), "fps: expected a number from 0.1 to 1000, got True"),
    "too large a number": (replace('"guidance": 5.0', '"guidance": 1e999'), "guidance: expected a number of"),
    "half a video": (put(*FARM, "n", value=1.5), "n: expected a whole number of at least 0, got 1.5"),
    "a future date": (put("submitted", value=TOMORROW), f"submitted: {TOMORROW} lies in the future"),
    "no such day": (put("submitted", value="2026-02-30"), "as YYYY-MM-DD, got '2026-02-30'"),
    "another date format": (put("submitted", value="1.11.2026"), "as YYYY-MM-DD, got '1.11.2026'"),
    "a name that turns the text": (put("name", value="model\u202e"), r"name: expected printable text.*u202e"),
    "a name of 101 letters": (put("name", value="m" * 101), "printable text of 1 to 100 characters, got 'm"),
    "no name": (put("name", value=""), "name: expected printable text of 1 to 100 characters, got ''"),
    "a script as link": (put("links", "code", value="javascript:alert(1)"), "code: expected an http or https link"),
    "another kind": (put("kind", value="human"), "kind: expected 'model' or 'reference'"),
    "a commit of words": (put("commit", value="my best"), "commit: expected a commit's hash or tag"),
    "counts that do not add up": (put("counts", "failed", value=1), "expected found = scored \\+ failed"),
    "interval reversed": (put(*FARM, "ci95", value=[1.0, 0.0]), "ci95: expected the lower end first"),
    "interval of three": (put(*FARM, "ci95", value=[0, 1, 2]), "ci95: expected two finite numbers or null"),
    "null without reason": (put(*FARM, "value", value=None), "either a value or a reason"),
    "protocol not listed": (put(*FARM, "protocol", value="0" * 12), "protocol '000000000000' is not listed"),
    "edited protocol": (edit(lambda j: next(iter(j["protocols"].values())).update(version=2)), "it was edited"),
    "no word on generation": (put("generation", value=None), "generation: expected how the samples were made"),
    "no seeds": (put("generation", "seeds", value=[]), "seeds: expected a list of one seed or more"),
    "negative size": (put("generation", "size", value=[64, -64]), r"size: expected \[width, height\]"),
    "perhaps rewritten": (put("generation", "prompts_rewritten", value="no"), "expected true or false, got 'no'"),
    "sampler without name": (drop("generation", "sampler"), "'sampler' is missing"),
    "no step": (put("checkpoint", value={"run": "a", "step": -1}), "step: expected a whole number"),
    "more than all verified": (put("verification", value={"by": "me", "date": "2026-11-01", "share": 1.5, "videos": 1,
                                                          "deviations": {"farm": 0}}), "share: expected a number"),
    "verified in no metric": (put("verification", value={"by": "me", "date": "2026-11-01", "share": 1, "videos": 1,
                                                         "deviations": {}, "scored": "0" * 64}),
                             "deviations: expected one metric or more"),
    "a badge of other metrics": (badge(deviations={"made_up": 99.0}), "deviations: expected those of farm, "),
    "a badge above tolerance": (badge(extra={"farm": 0.01}), "farm: 0.01 is more than the board's tolerance of 0.002"),
    "a badge of a million videos": (badge(videos=10**6), "1000000 videos are no share of 1 of the row's 6"),
    "withdrawn without reason": (put("withdrawal", value={"date": "2026-11-01", "reason": ""}), "reason: expected"),
    # paths
    "an absolute path": (put("videos", "path", value="/etc/passwd"), "begins with 'model-00/', got '/etc/passwd'"),
    "a path that climbs": (put("videos", "path", value="model-00/../x"), r"got 'model-00/\.\./x'"),
    "another's file": (put("videos", "path", value="model-01/videos.parquet"), "got 'model-01/videos.parquet'"),
    "a link": (link, "expected a plain file, got a link"),
    "a name in capitals": (lambda folder: path_of(folder).rename(path_of(folder, "Model")), "expected a file name"),
    "a pickle beside": (file("weights.pkl"), "model-00/weights.pkl lies in its folder, unlisted"),
    # against the board
    "another board": (put("board", value="other"), "belongs to board 'other'"),
    "a metric less": (drop(*FARM), "scores: missing farm"),
    "a metric more": (edit(lambda j: j["scores"].update(best=j["scores"]["farm"])), "best: not on board simulated"),
    "another direction": (put(*FARM, "higher_is_better", value=False), "the board has True, got False"),
    "another unit": (put(*FARM, "unit", value="%"), "the board has '', got '%'"),
    "another protocol": (edit(other_protocol), "another protocol than the board's: clips.num_frames: 16 != 32"),
    "out of range": (put("scores", "artifacts", "value", value=99.0), "value 99 lies outside the metric's range"),
    "out of its interval": (put(*FARM, "value", value=9.0), "value 9 lies outside its own interval"),
    "a value of nothing": (put(*FARM, "n", value=0), "expected at least 1 behind a value"),
    "a name twice": (put("name", value="MODEL-01"), "stands on the board already"),
    "other prompts": (retable(lambda t: tell(t, "prompt", 0, "an easy one")), "other prompts than the board's 6"),
    # the files
    "no table": (lambda folder: (path_of(folder).with_suffix("") / "videos.parquet").unlink(), "no such file beside"),
    "a tampered table": (tamper, "expected sha256 .*the file was changed"),
    "a longer table": (put("videos", "bytes", value=1), "expected 1 bytes, got"),
    "a table that is none": (refile("videos.parquet", b"PAR1, or not"), "not a Parquet table"),
    "a table without prompts": (retable(lambda t: t.drop(columns="prompt")), "missing prompt"),
    "a row less": (retable(lambda t: t.iloc[1:]), "expected 6 rows as counts.found says, got 5"),
    "numbers for videos": (retable(lambda t: t.assign(video=range(6))), "expected text in column 'video', got 0"),
    "a video twice": (retable(lambda t: tell(t, "video", 0, t["video"][1])), "expected each video once"),
    "an unexplained gap": (retable(lambda t: tell(t, "farm", 0, None)), "neither a value nor an error"),
    "infinite for one video": (retable(lambda t: tell(t, "farm", 0, np.inf)), "1 that are not"),
    "an error unheard of": (retable(lambda t: tell(t, "error", 0, "farm: no")), "as counts.failed says, got 1"),
    "text for scores": (retable(lambda t: t.assign(farm="0.7")), "expected numbers, got"),
    "a name that climbs": (retable(lambda t: tell(t, "video", 0, "../secret.mp4")), r"got '\.\./secret\.mp4'"),
    "an absolute name": (retable(lambda t: tell(t, "video", 0, "/etc/passwd")), "samples' folder, got '/etc/passwd'"),
    "a file under two names": (retable(lambda t: tell(t, "content", 0, t["content"][1])),
                               "got one content under 2 names: 000-0.mp4, 001-0.mp4"),
    "other seeds": (put("generation", "seeds", value=[7]), r"expected those of model-00/videos\.parquet, 0; got 7"),
    "a bomb": (refile("videos.parquet", bomb()), "bytes unpacked, got more: texts that repeat without end"),
    "a table of dates": (retable(lambda t: t.assign(farm=pd.Timestamp("2026-11-01"))), "got 'farm' of timestamp"),
    "a link to a folder beside": (lambda folder: (path_of(folder).with_suffix("") / "more").symlink_to("/etc"),
                                  "model-00/more lies in its folder, unlisted"),
    "paths of a machine": (retable(lambda t: t.assign(path="/home/me")), "column 'path'"),
    "one video inflated": (retable(lambda t: tell(t, "farm", 0, t["farm"][0] * 1.01)), "the table's mean is"),
    "a narrower interval": (edit(lambda j: j["scores"]["farm"].update(ci95=[j["scores"]["farm"]["value"]] * 2)),
                            "the table's interval is"),
    "no interval": (put(*FARM, "ci95", value=None), "the table gives an interval"),
    "no features": (both(put("features", value=None), lambda folder: (
        path_of(folder).with_suffix("") / "features.safetensors").unlink()), "fvd_mini: neither a column"),
    "features with NaN": (refeature(lambda f: {k: v * np.float32("nan") for k, v in f.items()}), "finite float32"),
    "features that are none": (refile("features.safetensors", b"0" * 64), "not a safetensors file"),
    "features of another metric": (refeature(lambda f: f | {"fvd": f["fvd_mini"]}), "features of 'fvd'"),
    "fewer features": (refeature(lambda f: {k: v[:3].copy() for k, v in f.items()}), "6 rows or more"),
    "a drawing as clip": (both(file("clip.svg"), put("clips", value={"000-0.mp4": "model-00/clip.svg"})),
                          "expected .mp4 or .webm"),
    "a clip of no video": (both(file("clip.mp4"), put("clips", value={"other.mp4": "model-00/clip.mp4"})),
                           "'other.mp4' is no video of the table"),
}


def refusal(clean, folder, case):
    shutil.copytree(clean, folder)
    case(folder)
    with pytest.raises(BoardError) as caught:
        check(folder)
    return str(caught.value)


@pytest.mark.parametrize("name", CASES)
def test_a_malformed_submission_is_refused_in_its_own_words(clean, tmp_path, name):
    case, message = CASES[name]
    assert re.search(message, refusal(clean, tmp_path / "board", case))


def test_no_two_cases_share_a_message(clean, tmp_path):
    messages = {refusal(clean, tmp_path / str(i), case) for i, (case, _) in enumerate(CASES.values())}
    assert len(messages) == len(CASES) >= 40


def test_a_bomb_of_15_kilobytes_unpacks_into_no_memory(tmp_path):
    (tmp_path / "videos.parquet").write_bytes(data := bomb())
    assert len(data) < 20_000
    code = ("import resource, sys\nfrom pathlib import Path\nimport pyarrow.parquet, pandas\n"
            "from leaderboards.tables import read_columns\nfrom leaderboards.fields import BoardError\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "try:\n    read_columns(Path(sys.argv[1]))\nexcept BoardError:\n"
            "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)")
    grown = subprocess.run([sys.executable, "-c", code, str(tmp_path / "videos.parquet")], capture_output=True,
                           text=True, check=True).stdout
    assert int(grown) < 100_000  # kilobytes, of three million


def test_a_badge_of_a_row_that_was_edited_since_is_none(clean, tmp_path):
    shutil.copytree(clean, folder := tmp_path / "board")
    badge()(folder)
    check(folder)
    assert read_submission(path_of(folder)).status == "verified"
    put("scores", "fvd_mini", "value", value=read_submission(path_of(folder)).scores["fvd_mini"].value - 0.1)(folder)
    check(folder)
    assert read_submission(path_of(folder)).status == "reported"


def test_the_board_that_the_cases_start_from_is_sound(clean):
    check(clean)


@pytest.mark.parametrize(("change", "message"), [
    (lambda b: b.update(name="other"), "expected the name 'simulated'"),
    (lambda b: b.update(rank_by="fame"), "rank_by: expected composite, wins or a metric"),
    (lambda b: b["metrics"]["farm"].pop("anchor") and b.update(rank_by="composite"), "a composite needs an anchor"),
    (lambda b: b["metrics"]["farm"]["anchor"].update(std=0), "std: expected a number of at least"),
    (lambda b: b["metrics"].clear(), "expected at least one metric"),
    (lambda b: b["metrics"]["farm"].update(weight=-1), "weight: expected a number of at least 0"),
    (lambda b: b["metrics"]["farm"].update(color="red"), "unknown key 'color'"),
    (lambda b: b["protocols"].clear(), "is not listed under protocols"),
])
def test_a_malformed_board_is_refused(clean, tmp_path, change, message):
    content = json.loads((clean / "boards" / "simulated.json").read_text())
    change(content)
    path = tmp_path / "boards" / "simulated.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    with pytest.raises(BoardError, match=message):
        read_board(path)
