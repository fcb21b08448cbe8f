"""What the conductor makes of results, without Ray."""

from pathlib import Path
from typing import Any
from unittest import mock

from search.studies.size import SizeStudy
from search.tuner import Conductor
from tests.search.studies.test_size import MODEL, space
from trainables.documents import DataError


def conductor(folder: Path) -> tuple[Conductor, SizeStudy]:
    study = SizeStudy(folder / "study.journal", MODEL, space())
    return Conductor([study], 1, lambda _: 100, mock.Mock()), study


def result(**changes: Any) -> dict[str, Any]:
    return {"failure": None, "detail": "", "test": None, "data_error": None, **changes}


def test_a_failed_trial_ends_and_the_search_goes_on(tmp_path: Path) -> None:
    opened, study = conductor(tmp_path)
    assert opened.begin("a") is not None
    trial = mock.Mock(trial_id="a")
    opened.report(trial, result(failure="out of memory", detail="CUDA out of memory"))
    assert opened.decisions() == [(trial, False)]
    assert study.study.trials[0].user_attrs["reason"] == "out of memory"
    assert not opened.finished
    assert opened.begin("b") is not None


def test_what_no_trial_can_be_trained_on_ends_the_search(tmp_path: Path) -> None:
    opened, study = conductor(tmp_path)
    opened.begin("a")
    trial = mock.Mock(trial_id="a")
    error = DataError("training.hidden_dropout", "the architecture x", "one with blocks")
    opened.report(trial, result(failure="error", detail=str(error), data_error=error))
    assert opened.decisions() == [(trial, False)]
    assert opened.error is error
    assert opened.finished
    assert opened.begin("b") is None
    # The trial is left as it is: mended, the search goes on with it.
    assert study.study.trials[0].state.name == "RUNNING"
