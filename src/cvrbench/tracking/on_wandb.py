"""Weights & Biases: a run on its server, or files for `wandb sync`."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cvrbench.config.logger import WandbConfig
from cvrbench.errors import RunError
from cvrbench.tracking.sink import About, Earlier, Finished

ANSWER = 20.0
"""Seconds that its server has to take a run, and to take the rest of it at the end."""


class Wandb:
    """Tells what every sink tells, and nothing that the client would gather by itself."""

    def __init__(self, config: WandbConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder
        self.run: Any = None

    def begin(self, about: About, earlier: Earlier | None) -> str:
        """Open a run under an id of our own, or go on with the earlier one's."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        mode = self.config.mode
        if mode == "online" and not wandb.login(prompt=False):
            raise RunError("no key; set WANDB_API_KEY, or call `wandb login` once")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=self.config.project,
            entity=self.config.entity,
            mode=mode,
            dir=str(self.folder.resolve()),  # its service stands where its first run began
            id=earlier.run if earlier else secrets.token_hex(4),
            resume="allow",
            reinit="create_new",  # runs of one process, one after another, are runs of their own
            name=about.run_id,
            group="-".join([about.tags["dataset"], about.tags["model"]]),
            config={**about.tags, **about.config},
            settings=wandb.Settings(
                silent=True,
                console="off",
                save_code=False,
                disable_git=True,
                host="",
                init_timeout=ANSWER,
                finish_timeout=ANSWER,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )
        return str(self.run.id)

    def look(self, values: Mapping[str, float], step: int) -> None:
        """Log one row."""
        self.run.log(dict(values), step=step)

    def end(self, finished: Finished | None) -> None:
        """Put results into the run's summary, and the record among its files."""
        if finished is not None:
            self.run.summary.update(dict(finished.values))
            record = Path(self.run.dir) / "record.json"
            record.write_text(finished.record)
            self.run.save(str(record), base_path=self.run.dir, policy="now")
        self.run.finish(exit_code=1 if finished is None else 0)
