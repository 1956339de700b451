"""MLflow: a run on a tracking server, or in a database file."""

import logging
import os
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from cvrbench.config.logger import MLflowConfig
from cvrbench.files import lock
from cvrbench.tracking.sink import About, Earlier, Finished

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""What its client reads from the environment, unless the user has set it: to tell its makers
nothing, and to give a server up that does not answer."""
BIRTH = 60.0
"""Seconds to wait for another process that makes the tables of a new database."""
BATCH = 100
"""Most parameters, and most metrics, in one request."""


class MLflow:
    """Speaks through the client alone: MLflow's global state stays as the program has it."""

    def __init__(self, config: MLflowConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder
        self.client: Any = None
        self.run = ""

    def begin(self, about: About, earlier: Earlier | None) -> str:
        """Make a run in the experiment, or set the earlier one running again."""
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        named = self.config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if named is None:
            self.folder.mkdir(parents=True, exist_ok=True)
        database = f"sqlite:///{self.folder.resolve()}/mlflow.db"
        artifacts = None if named else (self.folder.resolve() / "artifacts").as_uri()
        # Of two processes that make the tables of one file, one would fail.
        with nullcontext() if named else lock(self.folder / "lock", seconds=BIRTH):
            self.client = MlflowClient(tracking_uri=named or database)
            experiment = self._experiment(artifacts)
        if earlier is not None:
            self.run = earlier.run
            self.client.update_run(self.run, status="RUNNING")
            return self.run
        tags = {f"cvrbench.{key}": value for key, value in about.tags.items()}
        run = self.client.create_run(experiment, run_name=about.run_id, tags=tags)
        self.run = str(run.info.run_id)
        params = [Param(key, str(value)) for key, value in about.config.items()]
        for start in range(0, len(params), BATCH):
            self.client.log_batch(self.run, params=params[start : start + BATCH])
        return self.run

    def look(self, values: Mapping[str, float], step: int) -> None:
        """Log one point per metric."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        points = [Metric(name, value, now, step) for name, value in values.items()]
        for start in range(0, len(points), BATCH):
            self.client.log_batch(self.run, metrics=points[start : start + BATCH])

    def end(self, finished: Finished | None) -> None:
        """Log results, and the record as an artifact."""
        if finished is None:
            self.client.set_terminated(self.run, "KILLED")
            return
        self.look(finished.values, finished.step)
        self.client.log_text(self.run, finished.record, "record.json")
        self.client.set_terminated(self.run, "FINISHED")

    def _experiment(self, artifacts: str | None) -> str:
        """Find the experiment, or make it; another process may be making it, too."""
        from mlflow.exceptions import MlflowException

        name = self.config.experiment
        if (found := self.client.get_experiment_by_name(name)) is None:
            try:
                return str(self.client.create_experiment(name, artifacts))
            except MlflowException:
                if (found := self.client.get_experiment_by_name(name)) is None:
                    raise
        return str(found.experiment_id)
