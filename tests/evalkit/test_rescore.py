import numpy as np
import pytest

from evalkit.errors import UsageError
from evalkit.rescore import rescore
from evalkit.results import ResultsError, rows_of_features

FEATURES = np.random.default_rng(0).normal(size=(4, 24)).astype(np.float32)


@pytest.mark.parametrize(("whole", "count", "rows"), [
    ([True, True, True], 3, [0, 1, 2]),
    ([True, False, True], 3, [0, 1, 2]),  # the error is another metric's
    ([True, False, True], 2, [0, 2]),
    ([True, False, True], 4, [0, 0, 2, 2]),  # two clips a video
])
def test_features_belong_to_the_videos_in_their_order(whole, count, rows):
    assert rows_of_features(whole, count, "fvd") == rows


@pytest.mark.parametrize(("whole", "count"), [([True, True], 3), ([True, True], 0), ([], 2)])
def test_a_number_of_features_that_fits_no_videos_is_refused(whole, count):
    with pytest.raises(ResultsError, match=f"fvd: {count} features belong to neither"):
        rows_of_features(whole, count, "fvd")


def test_a_metric_that_compares_with_a_reference_asks_for_one():
    with pytest.raises(UsageError, match="fvd_mini: needs a reference"):
        rescore({"fvd_mini": FEATURES}, [""] * 4, ["fvd_mini"])


@pytest.mark.parametrize("name", ["farm", "fvd_mini"])
def test_what_is_no_set_metric_or_has_no_features_is_refused(name):
    with pytest.raises(UsageError, match=f"{name}: expected a set metric with features, got features of kvd"):
        rescore({"kvd": FEATURES}, [""] * 4, [name])
