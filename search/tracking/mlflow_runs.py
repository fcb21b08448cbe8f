"""The runs of one search as MLflow has them: how an entry becomes requests, each of which may be repeated.

MLflow's SQL store leaves out a metric that it has with the same time, step and value, and params, tags and artifacts
have names. Only making a run is not repeatable: each has a tag of its own, by which it is found again.
"""

import json
import logging
import shlex
import shutil
import tempfile
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from search.environment import SQLITE, set_mlflow_environment
from search.output.cursor import Cursor
from search.results.model_card import CARD
from search.results.page.trial import TrialPage, render_trial
from search.tracking.entries import SEARCH, Data, End, Files, Model, Start, Values, View
from trainables.config.model_names import slug
from trainables.errors import mask_secrets

# MLflow's limits for one request: 1000 metrics, 100 params and tags (mlflow.utils.validation).
_METRICS_PER_BATCH = 1000
_ENTITIES_PER_BATCH = 100
# Files in which a password may stand, as in the tracking.uri of a best schedule.
_TEXTS = (".yaml", ".json")
# The tag by which MLflow's UI shows an experiment as one of training, and not of agents.
_KIND = "mlflow.experimentKind"
# The tag by which a run is found again.
TAG = "search.key"
# MLflow's code for a run that it does not have.
MISSING = "RESOURCE_DOES_NOT_EXIST"
# ... and for a name that it has already.
EXISTS = "RESOURCE_ALREADY_EXISTS"
# The artifact that a registered model is in.
_MODEL = "model"
# The artifact that is a trial's page.
_PAGE = "trial.html"
# The tag of an experiment that a link to its page of runs names, and columns that each such page has, as MLflow's UI
# keeps what its button "Share" makes.
_SHARED = "mlflow.sharedViewState."
_COLUMNS = ("metrics.`objective_value`", "tags.`state`", "tags.`reason`")
# Packages that a registered model needs.
_REQUIRED = ("torch", "transformers")


def new_client(uri: str) -> Any:
    """An MLflow client; importing mlflow takes seconds, so the thread does it."""
    if uri.startswith(SQLITE):
        Path(uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
    set_mlflow_environment()
    from mlflow import MlflowClient

    # Importing mlflow sets these levels.
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


def describe_pages(uri: str, pages: Mapping[str, str]) -> list[str]:
    """Lines for a person: how MLflow's UI is opened, and where it has each model's page (see `MlflowRuns.share`)."""
    shown = mask_secrets(uri)
    if uri.startswith("http"):
        opened, server = shown, shown.rstrip("/")
    else:
        opened, server = shlex.join(["mlflow", "ui", "--backend-store-uri", shown]), "http://127.0.0.1:5000"
    return [f"all trials: {opened}", *(f"  {model}, the best on top: {server}{page}" for model, page in pages.items())]


def error_code(error: Exception) -> str | None:
    """MLflow's name for what went wrong."""
    return getattr(error, "error_code", None)


class DeletedExperimentError(Exception):
    """The experiment is in MLflow's bin, and keeps its name."""


class MlflowRuns:
    """Args: see Delivery. Every method raises whatever MLflow raises."""

    def __init__(self, uri: str, experiment: str, cursor: Cursor, make_client: Callable[[str], Any]) -> None:
        self._uri, self._experiment, self._cursor, self._make_client = uri, experiment, cursor, make_client
        self._folder = cursor.path.parent
        self._connected: tuple[Any, str] | None = None
        self._params: dict[str, dict[str, str]] = {}  # of each run, as MLflow holds them
        self._made_again: set[str] = set()

    def open(self, key: str, start: Start) -> str:
        """The run with this key: the one that it had, set running again, or a new one."""
        client, experiment_id = self._connect()
        known = self._cursor.runs.get(key)
        if known is not None and self._reopen(known):
            return known
        if self._cursor.may_exist(key):
            if found := self._find_runs(key):
                self._cursor.keep_run(key, found[0])
                return found[0]
            # A request that was given up can still be under way: see `_remove_twins`.
            self._made_again.add(key)
        self._cursor.mark_tried(key)
        tags = {TAG: self._tag(key)}
        if key != SEARCH and (parent := self._cursor.runs.get(SEARCH)) is not None:
            tags["mlflow.parentRunId"] = parent
        run = client.create_run(experiment_id, start_time=start.time_ms, tags=tags, run_name=start.name)
        run_id = str(run.info.run_id)
        self._params[run_id] = {}
        self._cursor.keep_run(key, run_id)
        return run_id

    def log(self, run_id: str, group: Sequence[Values]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        client, _ = self._connect()
        new_params: dict[str, str] = {}
        new_tags: dict[str, str] = {}
        for values in group:
            new_tags |= values.tags
            for name, value in values.params.items():
                # MLflow refuses to change a param, as a resumed search with a larger budget would: the new
                # value becomes a tag of that name.
                kept = self.params(run_id).setdefault(name, value) == value
                (new_params if kept else new_tags)[name] = value
        params = [Param(name, value) for name, value in new_params.items()]
        tags = [RunTag(name, value) for name, value in new_tags.items()]
        metrics = []
        for values in group:
            metrics += [Metric(name, value, values.time_ms, values.step) for name, value in values.metrics.items()]
        for start in range(0, len(params), _ENTITIES_PER_BATCH):
            client.log_batch(run_id, params=params[start : start + _ENTITIES_PER_BATCH])
        for start in range(0, len(tags), _ENTITIES_PER_BATCH):
            client.log_batch(run_id, tags=tags[start : start + _ENTITIES_PER_BATCH])
        for start in range(0, len(metrics), _METRICS_PER_BATCH):
            client.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_BATCH])

    def keep(self, run_id: str, files: Files) -> None:
        client, _ = self._connect()
        for name, text in files.texts.items():
            client.log_text(run_id, text, name)
        for name in files.paths:
            path = self._folder / name
            if path.suffix in _TEXTS:
                client.log_text(run_id, mask_secrets(path.read_text(encoding="utf-8")), path.name)
            else:
                client.log_artifact(run_id, str(path))

    def show(self, run_id: str, page: TrialPage) -> None:
        client, _ = self._connect()
        client.log_text(run_id, render_trial(page), _PAGE)

    def use(self, run_id: str, data: Data) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        client, _ = self._connect()
        # MLflow has a data set once for its name and digest, and a run's use of it once.
        dataset = Dataset(data.name, data.digest, source_type="local", source=data.source)
        client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def register(self, run_id: str, model: Model) -> None:
        client, _ = self._connect()
        if any(version.name == model.name for version in client.search_model_versions(f"run_id = '{run_id}'")):
            return
        # The model is as large as the search's own disk is for.
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".model-") as folder:
            written = Path(folder) / _MODEL
            write_model(self._folder / model.folder, written)
            client.log_artifacts(run_id, str(written), _MODEL)
        try:
            client.create_registered_model(model.name)
        except Exception as error:
            if error_code(error) != EXISTS:
                raise
        source, about = f"runs:/{run_id}/{_MODEL}", {"tags": dict(model.tags), "description": model.description}
        client.create_model_version(model.name, source, run_id, **about)

    def share(self, run_id: str, view: View) -> str:
        """Makes a page of the trials of the search `run_id`. Returns its address at a server."""
        client, experiment_id = self._connect()
        quote = "'" if '"' in view.model else '"'
        trials = f'tags.mlflow.parentRunId = "{run_id}" and tags.stage = "search"'
        state = {
            "searchFilter": f"{trials} and tags.model = {quote}{view.model}{quote}",
            "orderByKey": _COLUMNS[0],
            "orderByAsc": True,
            "selectedColumns": [*_COLUMNS, *(f"params.`{name}`" for name in view.columns)],
        }
        key = f"{run_id}-{slug(view.model)[:100]}"
        client.set_experiment_tag(experiment_id, _SHARED + key, json.dumps(state))
        return f"/#/experiments/{experiment_id}/runs?viewStateShareKey={key}"

    def end(self, run_id: str, key: str, end: End) -> None:
        client, _ = self._connect()
        client.set_terminated(run_id, end.status, end.time_ms)
        if key in self._made_again:
            self._remove_twins(run_id, key)

    def params(self, run_id: str) -> dict[str, str]:
        """The params of a run, as MLflow holds them."""
        if run_id not in self._params:
            client, _ = self._connect()
            self._params[run_id] = dict(client.get_run(run_id).data.params)
        return self._params[run_id]

    def ping(self, run_id: str) -> None:
        """Raises if MLflow does not answer."""
        client, _ = self._connect()
        client.get_run(run_id)

    def _connect(self) -> tuple[Any, str]:
        """The client and the id of the experiment, which is made if it does not exist."""
        if self._connected is None:
            client = self._make_client(self._uri)
            self._connected = client, self._find_experiment(client)
        return self._connected

    def _find_experiment(self, client: Any) -> str:
        experiment = client.get_experiment_by_name(self._experiment)
        if experiment is not None and experiment.lifecycle_stage == "deleted":
            number = str(experiment.experiment_id)
            restored = shlex.join(["mlflow", "experiments", "restore", "--experiment-id", number])
            raise DeletedExperimentError(
                f"tracking.experiment: {self._experiment} has been deleted; restore it "
                f"(MLFLOW_TRACKING_URI={shlex.quote(mask_secrets(self._uri))} {restored}), or name another one"
            )
        if experiment is not None:
            return str(experiment.experiment_id)
        location = None
        if self._uri.startswith(SQLITE):
            # Beside the database, so that the artifacts are found from whichever folder the UI is started in.
            database = Path(self._uri.removeprefix(SQLITE))
            location = (database.parent / "mlartifacts").as_uri()
        return str(
            client.create_experiment(
                self._experiment, artifact_location=location, tags={_KIND: "custom_model_development"}
            )
        )

    def _reopen(self, run_id: str) -> bool:
        """Sets a run running again; False if it has been deleted, or is another server's."""
        client, _ = self._connect()
        try:
            run = client.get_run(run_id)
        except Exception as error:
            if error_code(error) == MISSING:
                return False
            raise
        if run.info.lifecycle_stage != "active":
            return False
        client.update_run(run_id, status="RUNNING")
        self._params[run_id] = dict(run.data.params)
        return True

    def _tag(self, key: str) -> str:
        # No quotation mark of a model's name gets into the filter.
        return urllib.parse.quote(f"{self._cursor.search_id}/{key}")

    def _find_runs(self, key: str) -> list[str]:
        """The runs that were made for `key`, always in the same order."""
        client, experiment_id = self._connect()
        runs = client.search_runs([experiment_id], f"tags.`{TAG}` = '{self._tag(key)}'")
        return sorted(str(run.info.run_id) for run in runs)

    def _remove_twins(self, run_id: str, key: str) -> None:
        """Deletes the empty runs of requests whose answer came too late, after another run had been made."""
        client, _ = self._connect()
        for twin in self._find_runs(key):
            if twin != run_id:
                client.delete_run(twin)


def write_model(source: Path, folder: Path) -> None:
    """Writes the model in `source`, a folder that transformers loads, into `folder` in the form that
    mlflow.transformers.load_model loads, with the adapters that are merged into it; it is in memory meanwhile.

    Raises:
        OSError: the disk is full.
        trainables.errors.ModelError: there is no model in `source`.
    """
    # All of these take seconds to import.
    import mlflow.transformers
    import torch
    from transformers import GenerationConfig

    from trainables.models.loading import ADAPTER, copy_what_is_used_with, load_model, load_tokenizer

    model = load_model(source, torch.device("cpu"))
    # save_pretrained refuses some that are published; it is copied as it stands.
    model.generation_config = GenerationConfig()
    mlflow.transformers.save_model(
        # From a path MLflow 3.17 cannot write what transformers 5 reads: it asks the pipeline's class for a name.
        {"model": model, "tokenizer": load_tokenizer(source)},
        str(folder),
        task="text-generation",
        # Otherwise MLflow starts a process that runs the model, to see what it imports.
        pip_requirements=[f"{package}=={version(package)}" for package in _REQUIRED],
    )
    copy_what_is_used_with(source, folder / "model")
    if (source / CARD).is_file():
        shutil.copy(source / CARD, folder / CARD)
    if (source / ADAPTER).is_dir():
        shutil.copytree(source / ADAPTER, folder / ADAPTER)
