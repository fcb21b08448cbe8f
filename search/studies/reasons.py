"""Why a trial was stopped or failed: codes, as studies, events and MLflow keep them, and their words for a person."""

PLATEAU, LOSING = "plateau", "losing"
NAN, SLOT_LOST = "nan", "slot_lost"
# The others are those of trainables.slots.mailbox.TrainResponse.
_WORDS = {
    PLATEAU: "no improvement any more",
    LOSING: "will not win",
    SLOT_LOST: "slot lost",
    "out_of_memory": "out of memory",
    "worker_lost": "worker lost",
}
_CODES = {words: code for code, words in _WORDS.items()}


def describe_reason(code: str) -> str:
    """What a person reads."""
    return _WORDS.get(code, code)


def reason_code(stored: str | None) -> str | None:
    """The code of what a study keeps: older versions kept the words."""
    return stored and _CODES.get(stored, stored)
