"""The HTTP server: what it answers, what it refuses, and whom."""
import base64
import http.client
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch

from evalkit.errors import UsageError
from evalkit.metrics.base import Measurement
from rewards.base import Reward
from rewards.commands import add_arguments, main
from rewards.farm import Farm
from rewards.server import JSON, SAFETENSORS, make_server, pack


class Bright(Reward):
    """Mean brightness; needs both prompts and fps, so that a test sees whether they arrive."""

    name, needs_prompts, needs_fps, min_frames = "bright", True, True, 1

    def measure(self, frames, features, prompts, fps):
        lengths = torch.tensor([float(len(prompt)) for prompt in prompts])
        return Measurement(frames.mean((1, 2, 3, 4)), {"letters": lengths, "fps": fps})


@contextmanager
def serving(reward, **options):
    with make_server(reward, port=0, **options) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def port():
    with serving(Bright()) as number:
        yield number


def ask(port, body=b"", kind=JSON, method="POST", path="/compute", **headers):
    """(status, answer)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, body, {"Content-Type": kind, **headers})
    answer = connection.getresponse()
    told = answer.status, json.loads(answer.read())
    connection.close()
    return told


def clips(count=2, frames=3, seed=0):
    return torch.rand(count, frames, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_health_says_what_the_reward_needs(port):
    status, told = ask(port, method="GET", path="/health")
    assert status == 200
    assert told == {"status": "ok", "reward": "bright", "min_frames": 1, "needs_prompts": True, "needs_fps": True}


def test_safetensors_json_base64_and_nested_lists_give_the_same_rewards(port):
    frames = (clips() * 255).round().to(torch.uint8)
    body = pack(frames, ["a", "bc"], 8.0)
    wanted = (frames.float() / 255).mean((1, 2, 3, 4)).tolist()
    packed = {"videos": base64.b64encode(pack(frames)).decode(), "prompts": ["a", "bc"], "fps": [8.0, 8.0]}
    nested = {"videos": frames.tolist(), "prompts": ["a", "bc"], "fps": 8}
    floats = nested | {"videos": (frames.double() / 255).tolist()}
    answers = [ask(port, body, SAFETENSORS)] + [ask(port, json.dumps(one)) for one in (packed, nested, floats)]
    for status, told in answers:
        assert status == 200, told
        assert told["rewards"] == pytest.approx(wanted, abs=1e-6)
        assert told["components"] == {"letters": [1.0, 2.0], "fps": [8.0, 8.0]}


def test_connection_is_kept_for_the_next_request_and_closed_after_a_refusal(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for prompts, status in ((["a"], 200), (["a"], 200), ([], 400)):
        connection.request("POST", "/compute", pack(clips(1), prompts, 8.0), {"Content-Type": SAFETENSORS})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status
        assert answer.will_close == (status == 400)
    connection.close()


def test_unequal_videos_are_scored_in_one_request(port):
    videos = [clips(1)[0], clips(1, frames=5, seed=1)[0, :, :, :, :6]]
    status, told = ask(port, pack(videos, ["a", "b"], [8.0, 16.0]), SAFETENSORS)
    assert status == 200
    assert told["rewards"] == pytest.approx([video.mean().item() for video in videos], abs=1e-6)
    assert told["components"]["fps"] == [8.0, 16.0]


def test_served_reward_is_the_reward_itself():
    frames = clips(1, frames=6)
    with serving(Farm().eval()) as port:
        status, told = ask(port, pack(frames, fps=8.0), SAFETENSORS)
    assert status == 200
    assert told["rewards"] == pytest.approx(Farm()(frames, fps=8.0).tolist(), abs=1e-6)
    assert "coherence" in told["components"]


@pytest.mark.parametrize("body, kind, why", [
    (b"{", JSON, "not JSON"),
    (b"[]", JSON, "expected an object"),
    (json.dumps({"videos": [], "prompts": []}).encode(), JSON, "videos"),
    (json.dumps({"videos": "!!", "fps": 8}).encode(), JSON, "base64"),
    (json.dumps({"videos": [[1, "x"]]}).encode(), JSON, "nested lists"),
    (json.dumps({"videos": [[[[[300]]]]]}).encode(), JSON, "0 to 255"),
    (json.dumps({"videos": clips(1).tolist(), "prompts": "a", "fps": 8}).encode(), JSON, "list of strings"),
    (json.dumps({"videos": clips(1).tolist(), "prompts": ["a"], "fps": -1}).encode(), JSON, "positive"),
    (b"\x08\0\0\0\0\0\0\0garbage!", SAFETENSORS, "not a safetensors file"),
    (pickle.dumps({"videos": [1]}), SAFETENSORS, "not a safetensors file"),
    (pack(clips(2), ["a"], 8.0), SAFETENSORS, "expected 2 prompts"),
    (pack(clips(1), ["a"]), SAFETENSORS, "expected fps"),
    (pack(clips(1) * 3, ["a"], 8.0), SAFETENSORS, r"[0, 1]"),
    (pack(clips(1) * float("nan"), ["a"], 8.0), SAFETENSORS, "finite"),
    (pack(clips(1)[0], ["a"], 8.0), SAFETENSORS, "expected (B, T, 3, H, W)"),
    (pack(clips(2), ["a", "b"], [8.0]), SAFETENSORS, "expected one number or 2"),
])
def test_bad_request_is_400_with_the_reason(port, body, kind, why):
    status, told = ask(port, body, kind)
    assert status == 400
    assert why in told["error"]


def test_pickle_is_not_a_content_type_and_unknown_paths_and_methods_are_told(port):
    assert ask(port, pickle.dumps([1]), "application/octet-stream")[0] == 415
    assert ask(port, b"{}", JSON, **{"Content-Encoding": "gzip"})[0] == 415
    assert ask(port, b"{}", path="/other")[0] == 404
    assert ask(port, method="GET", path="/")[0] == 404
    assert ask(port, b"{}", method="PUT")[0] == 501


def test_too_large_request_is_413_and_the_server_goes_on():
    with serving(Bright(), max_bytes=2000) as port:
        status, told = ask(port, b"x" * 2001, SAFETENSORS)
        assert status == 413 and "at most 2000 bytes" in told["error"]
        assert ask(port, method="GET", path="/health")[0] == 200


def test_token_is_demanded_where_there_is_one_and_for_other_hosts():
    body = pack(clips(1), ["a"], 8.0)
    with serving(Bright(), token="secret") as port:
        assert ask(port, body, SAFETENSORS)[0] == 401
        assert ask(port, body, SAFETENSORS, Authorization="Bearer wrong")[0] == 401
        assert ask(port, body, SAFETENSORS, Authorization="Bearer secret")[0] == 200
    for host in ("0.0.0.0", "", "example.org"):
        with pytest.raises(ValueError, match="token"):
            make_server(Bright(), host=host)


def test_command_refuses_another_host_without_a_token(monkeypatch):
    import argparse

    monkeypatch.delenv("EVALKIT_REWARDS_TOKEN", raising=False)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(["serve", "farm", "--host", "0.0.0.0"])
    with pytest.raises(UsageError, match="--token"):
        main(args)


def test_one_request_at_a_time_reaches_the_model():
    inside, most = [], []

    class Slow(Bright):
        def measure(self, frames, features, prompts, fps):
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.02)
            inside.pop()
            return super().measure(frames, features, prompts, fps)

    with serving(Slow()) as port, ThreadPoolExecutor(4) as pool:
        body = pack(clips(1), ["a"], 8.0)
        answers = list(pool.map(lambda _: ask(port, body, SAFETENSORS)[0], range(8)))
    assert answers == [200] * 8
    assert max(most) == 1


def test_reward_that_fails_is_500_and_the_next_request_is_answered(capsys):
    class Broken(Bright):
        def measure(self, frames, features, prompts, fps):
            if prompts == ["break"]:
                raise RuntimeError("out of order")
            return super().measure(frames, features, prompts, fps)

    with serving(Broken()) as port:
        status, told = ask(port, pack(clips(1), ["break"], 8.0), SAFETENSORS)
        assert status == 500 and "out of order" in told["error"]
        assert ask(port, pack(clips(1), ["a"], 8.0), SAFETENSORS)[0] == 200
