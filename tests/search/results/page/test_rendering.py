"""How values look on a page."""

from search.results.page.rendering import make_environment, round_for_page


def test_a_column_of_numbers_has_digits_that_match() -> None:
    texts = make_environment().filters["texts"]
    rows = [["none", 5.0, 4.0, 27_660], ["entrodrop", 4.9, 3.0, 6_915], ["other", "", 1e-5, 1]]
    assert texts(rows) == [
        ["none", "5.0000", "4.0000", "27,660"],
        ["entrodrop", "4.9000", "3.0000", "6,915"],
        ["other", "", "1e-05", "1"],
    ]
    assert texts([[4.0, 5.0], [3.0, 6.0]]) == [["4", "5"], ["3", "6"]]
    assert texts([]) == []


def test_a_sparkline_has_the_points_at_which_it_turns() -> None:
    polyline = make_environment().filters["polyline"]
    assert polyline([0.0] * 5 + [1.0] * 6, 0.0, 1.0) == "0,23 40,23 50,1 100,1"
    assert polyline([n / 10 for n in range(11)], 0.0, 1.0) == "0,23 100,1"
    assert polyline([2.0, 1.0], 1.0, 2.0) == "0,1 100,23"
    # However many there are.
    assert len(polyline([float(n % 2) for n in range(10_001)], 0.0, 1.0).split()) <= 201


def test_numbers_are_rounded_wherever_they_are() -> None:
    given = {"loss": [6.123456789, None], "at": (1 / 3, "x"), "tokens": 27_660_123}
    assert round_for_page(given) == {"loss": [6.12346, None], "at": [0.333333, "x"], "tokens": 27_660_123}
