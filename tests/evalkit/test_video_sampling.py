"""Which frames a spec reads: arithmetic alone."""
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.clips import ClipSpec
from evalkit.data.container import make_timeline
from evalkit.data.frame_sampling import pick_frames
from evalkit.data.video_types import Timeline, VideoError


def starts(count, spec, seed=0, fps=10.0):
    return [pick.indices.tolist() for pick in pick_frames(Timeline(count, fps), spec, Random(seed))]


def test_start_and_center_windows():
    assert starts(10, ClipSpec(num_frames=4)) == [[0, 1, 2, 3]]
    assert starts(10, ClipSpec(num_frames=4, placement="center")) == [[3, 4, 5, 6]]
    assert starts(10, ClipSpec(num_frames=4, stride=3)) == [[0, 3, 6, 9]]
    assert starts(10, ClipSpec(max_frames=4)) == [[0, 1, 2, 3]]
    assert starts(3, ClipSpec(max_frames=4)) == [[0, 1, 2]]


def test_spread_windows_go_from_the_first_frames_to_the_last_and_may_overlap_or_be_the_same():
    spec = ClipSpec(num_frames=4, placement="spread", clips_per_video=3)
    assert starts(10, spec) == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert starts(4, spec) == [[0, 1, 2, 3]] * 3
    assert starts(10, ClipSpec(num_frames=3, stride=2, placement="spread", clips_per_video=2)) == [[0, 2, 4], [5, 7, 9]]
    with pytest.raises(ValueError, match="at least 2 clips_per_video"):
        ClipSpec(placement="spread")


def test_a_video_of_exactly_the_length_is_enough():
    for placement in ("start", "center", "random", "uniform"):
        assert starts(16, ClipSpec(num_frames=16, placement=placement)) == [list(range(16))]
        with pytest.raises(VideoError, match="too short: 15 frames, needs 16"):
            starts(15, ClipSpec(num_frames=16, placement=placement))


def test_a_stride_shortens_what_there_is():
    with pytest.raises(VideoError, match=r"too short: 5 frames \(10 before resampling\), needs 6"):
        starts(10, ClipSpec(num_frames=6, stride=2))


def test_every_clip_means_all_that_fit_without_overlap():
    assert starts(11, ClipSpec(num_frames=3, clips_per_video=None)) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    centred = starts(11, ClipSpec(num_frames=3, clips_per_video=None, placement="center"))
    assert centred == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert starts(11, ClipSpec(num_frames=3, clips_per_video=2)) == [[0, 1, 2], [3, 4, 5]]


def test_random_starts_cover_every_place_evenly():
    spec = ClipSpec(num_frames=4, placement="random")
    counts = np.bincount([starts(8, spec, seed)[0][0] for seed in range(2000)])
    assert len(counts) == 5 and counts.min() > 320 and counts.max() < 480


def test_uniform_takes_the_middles_of_equal_parts_never_past_the_end():
    spec = ClipSpec(num_frames=4, placement="uniform")
    assert starts(100, spec) == [[12, 37, 62, 87]]
    assert pick_frames(Timeline(100, 25.0), spec, Random(0))[0].fps == 1
    two = starts(100, ClipSpec(num_frames=4, placement="uniform", clips_per_video=2))
    assert two == [[6, 31, 56, 81], [18, 43, 68, 93]]


def test_resampling_counts_time_and_not_frames():
    picks = pick_frames(Timeline(60, 30.0), ClipSpec(fps=8), Random(0))[0]
    assert picks.fps == 8 and len(picks.indices) == 16
    assert np.abs(picks.indices / 30 - np.arange(16) / 8).max() <= 0.5 / 30 + 1e-6
    assert starts(4, ClipSpec(fps=20)) == [[0, 0, 1, 1, 2, 2, 3, 3]]  # a higher rate repeats frames


def test_timestamps_that_claim_centuries_are_refused():
    timeline = make_timeline(np.array([0.0, 0.1, 1e10]), 10.0)
    with pytest.raises(VideoError, match="too long to resample"):
        pick_frames(timeline, ClipSpec(fps=8), Random(0))


@given(count=st.integers(1, 300), length=st.integers(1, 40), stride=st.integers(1, 5), seed=st.integers(0, 9),
       placement=st.sampled_from(["start", "center", "random", "uniform"]), fps=st.sampled_from([None, 3.0, 8.0, 24.0]),
       clips=st.sampled_from([None, 1, 3]), variable=st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_spec_gets_exactly_its_frames_or_an_error(count, length, stride, seed, placement, fps, clips, variable):
    gaps = np.random.default_rng(seed).uniform(0.02, 0.2, count) if variable else np.full(count, 0.1)
    timeline = make_timeline(np.cumsum(gaps), 10.0)
    spec = ClipSpec(num_frames=length, stride=stride, placement=placement, fps=fps, clips_per_video=clips)
    try:
        picks = pick_frames(timeline, spec, Random(seed))
    except VideoError as error:
        assert str(error).startswith("too short")
        return
    assert picks and all(len(pick.indices) == length for pick in picks)
    for pick in picks:
        assert pick.indices.min() >= 0 and pick.indices.max() < count
        assert (np.diff(pick.indices) >= 0).all() and pick.fps > 0
