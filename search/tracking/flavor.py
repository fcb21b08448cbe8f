"""A fine-tuned model as MLflow keeps models."""

from importlib.metadata import version
from pathlib import Path

_REQUIRED = ("torch", "transformers")


def write_model(source: Path, folder: Path) -> None:
    """Writes the model in `source`, a folder that transformers loads, into `folder` in the form that
    mlflow.transformers.load_model loads; it is in memory meanwhile.

    Raises:
        OSError: the disk is full.
        trainables.errors.ModelError: there is no model in `source`.
    """
    # All of these take seconds to import.
    import mlflow.transformers
    import torch

    from trainables.models.loading import load_model, load_tokenizer

    mlflow.transformers.save_model(
        # From a path MLflow 3.17 cannot write what transformers 5 reads: it asks the pipeline's class for a name.
        {"model": load_model(source, torch.device("cpu")), "tokenizer": load_tokenizer(source)},
        str(folder),
        task="text-generation",
        # Otherwise MLflow starts a process that runs the model, to see what it imports.
        pip_requirements=[f"{package}=={version(package)}" for package in _REQUIRED],
    )
