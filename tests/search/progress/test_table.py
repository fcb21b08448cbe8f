from search.progress.table import sparkline


def test_a_curve_rises_and_falls() -> None:
    assert sparkline([0.0, 0.5, 1.0, 0.5, 0.0], 8, 0.0, 1.0) == "▁▅█▅▁"


def test_many_values_are_averaged() -> None:
    assert sparkline([0.0] * 30 + [1.0] * 30, 4, 0.0, 1.0) == "▁▁██"


def test_a_flat_curve_is_low_and_no_curve_is_nothing() -> None:
    assert sparkline([3.0, 3.0], 8, 3.0, 3.0) == "▁▁"
    assert sparkline([], 8, 0.0, 1.0) == ""


def test_a_terminal_without_blocks() -> None:
    assert sparkline([0.0, 1.0], 8, 0.0, 1.0, ascii_only=True).isascii()
