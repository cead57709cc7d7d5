"""MLflow: a tracking server, or a database file beside the runs."""

from __future__ import annotations

import os
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

from limbeck.errors import RecipeError
from limbeck.trackers._shape import Kept, Tracked, Tracker, flat, needs

_AT_ONCE = 100  # what a server takes of parameters in one request
_LONGEST = 500


def ready(*, uri: str | None = None) -> None:
    """Raises where the package is not installed, or where the address holds a password."""
    needs("mlflow", "mlflow")
    needs("sqlalchemy", "mlflow")
    parts = urllib.parse.urlsplit(uri or "")
    if parts.scheme in ("http", "https") and (parts.username or parts.password or parts.query):
        raise RecipeError(
            "track: mlflow.uri holds a user, a password or a query, which a recipe may not. Put them into the environment: "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
        )


def mlflow(run: Tracked, *, experiment: str = "limbeck", uri: str | None = None) -> Tracker:
    """One tracked run an arm. uri: else MLFLOW_TRACKING_URI, else mlflow.db beside the run's folder."""
    place = uri or os.environ.get("MLFLOW_TRACKING_URI") or _file(run)
    return _Run(run, experiment, place)


def _file(run: Tracked) -> str:
    folder = run.log.parent.absolute()
    above = folder.parents[run.title.count("/")]  # an arm lies inside its run
    return f"sqlite:///{above / 'mlflow.db'}"


class _Run:
    """A run of MLflow, the same one after a resume."""

    def __init__(self, run: Tracked, experiment: str, uri: str) -> None:
        # Read when the package is imported. A server that is away is asked for a minute or two, not for a quarter of an hour.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        from mlflow.tracking import MlflowClient

        self._client: Any = MlflowClient(tracking_uri=uri)
        kept = Kept(run, "mlflow")
        self._id = kept.id
        if kept.known:
            self._client.update_run(self._id, status="RUNNING")
        else:
            self._id = kept.id = self._begun(run, experiment)
            kept.keep(last=0)
        told = self._client.get_metric_history(self._id, "train/step") if kept.known else []
        self._told = max((point.step for point in told), default=0)
        self.last = min(self._told, max(0, run.at - 1))

    def _begun(self, run: Tracked, experiment: str) -> str:
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment)
        made = self._client.create_run(number, run_name=run.title, tags={"group": run.group})
        from mlflow.entities import Param

        told = [Param(k, v[:_LONGEST]) for k, v in flat(run.settings).items()]
        for first in range(0, len(told), _AT_ONCE):
            self._client.log_batch(made.info.run_id, params=told[first : first + _AT_ONCE])
        return str(made.info.run_id)

    def line(self, step: int, values: Mapping[str, float]) -> None:
        """Logs a step, unless it was told before a resume: no store takes a line back."""
        if step > self._told:
            self._log(step, values)
            self._told = step

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        told = [Metric(name, float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=told)

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Logs them at the last step."""
        self._log(step, values)

    def close(self) -> None:
        """Says that the run is over."""
        self._client.set_terminated(self._id)
