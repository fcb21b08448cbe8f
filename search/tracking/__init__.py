"""The record of a search in MLflow: a parent run for the search, a child run for each trial.

What happens is written to a file in the output folder (outbox.py), and that is all that a search waits for. A thread
sends it to MLflow, in order, whenever MLflow is there (delivery.py, runs.py); each record has its effect once, also
when the search or MLflow was killed on the way.
"""

from search.tracking.tracker import Tracker

__all__ = ["Tracker"]
