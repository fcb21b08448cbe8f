"""The record of a search in MLflow: a parent run for the search, a child run for each trial.

A search waits for nothing but the line in events.jsonl. A thread (delivery.py) reads these lines, makes entries of them
(entries.py), and sends those to MLflow (mlflow_runs.py) whenever it is there; cursor.py keeps how far it has come. Each
entry has its effect once, also when the search or MLflow was killed on the way.
"""
