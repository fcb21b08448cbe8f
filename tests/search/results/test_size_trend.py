import math

import pytest

from search.results.size_trend import fit_size_trend


def test_one_size_has_no_trend() -> None:
    assert fit_size_trend([]) is None
    assert fit_size_trend([(1000, {"mask_ratio": 0.5})]) is None


def test_two_sizes_are_not_extrapolated() -> None:
    assert fit_size_trend([(4000, {"mask_ratio": 0.6}), (1000, {"mask_ratio": 0.5})]) == {
        "sizes": [1000, 4000],
        "settings": {"mask_ratio": [0.5, 0.6]},
        "extrapolation": None,
    }


def test_settings_that_not_all_sizes_have_are_left_out() -> None:
    found = fit_size_trend([(1000, {"a": 1.0, "b": 2.0}), (2000, {"b": 3.0, "c": 4.0})])
    assert found is not None
    assert found["settings"] == {"b": [2.0, 3.0]}


def test_a_line_in_the_logarithm_of_the_size_is_predicted_exactly() -> None:
    found = fit_size_trend([(size, {"mask_ratio": 0.1 + 0.05 * math.log(size)}) for size in (1000, 10_000, 100_000)])
    assert found is not None
    assert found["extrapolation"]["size"] == 1_000_000
    predicted = found["extrapolation"]["settings"]["mask_ratio"]
    expected = 0.1 + 0.05 * math.log(1_000_000)
    assert [predicted["value"], predicted["low"], predicted["high"]] == pytest.approx([expected] * 3, abs=1e-6)


def test_the_interval_of_a_prediction_is_students() -> None:
    # By hand: log sizes 0, 1, 2 (times ln 10); values 0, 1, 0; residuals -1/3, 2/3, -1/3; at 3 the line is at 1/3.
    found = fit_size_trend([(1, {"x": 0.0}), (10, {"x": 1.0}), (100, {"x": 0.0})])
    assert found is not None
    predicted = found["extrapolation"]["settings"]["x"]
    error = 12.706205 * math.sqrt(2 / 3) * math.sqrt(1 + 1 / 3 + 4 / 2)
    assert found["extrapolation"]["size"] == 1000
    assert [predicted["value"], predicted["low"], predicted["high"]] == pytest.approx(
        [1 / 3, 1 / 3 - error, 1 / 3 + error]
    )


def test_two_models_of_one_size_are_one_size() -> None:
    pair = [(1000, {"x": 0.1}), (2000, {"x": 0.2}), (2000, {"x": 0.3})]
    found = fit_size_trend(pair)
    assert found is not None
    assert found["extrapolation"] is None
    larger = fit_size_trend([(500, {"x": 0.0}), *pair])
    assert larger is not None
    assert larger["extrapolation"]["size"] == 4000
