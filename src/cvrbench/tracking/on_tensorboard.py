"""TensorBoard: event files, one folder per run."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cvrbench.tracking.sink import About, Earlier, Finished

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

CUT = (bool, int, float, str)
"""Types that TensorBoard's table of hyper-parameters takes."""


class TensorBoard:
    """Writes scalars per look, and the record and a row of hyper-parameters at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: Mapping[str, object] = {}
        self.writer: SummaryWriter | None = None

    def begin(self, about: About, earlier: Earlier | None) -> str:
        """Open a new event file. What a run that begins anew has left from before is removed."""
        from torch.utils.tensorboard import SummaryWriter

        self.config = about.config
        folder = self.folder / about.run_id
        if earlier is None:
            for file in folder.glob("events.out.tfevents.*"):
                file.unlink()
        # Readers drop what the earlier process wrote after the last look that it noted.
        purged = None if earlier is None else earlier.step + 1
        self.writer = SummaryWriter(str(folder), purge_step=purged)
        if earlier is None:
            told = {**about.tags, **about.config}
            lines = [f"    {key}: {value}" for key, value in told.items()]
            self.writer.add_text("config", "\n".join(lines), 0)
        self.writer.flush()
        return about.run_id

    def look(self, values: Mapping[str, float], step: int) -> None:
        """Write one scalar per metric."""
        assert self.writer is not None
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def end(self, finished: Finished | None) -> None:
        """Write results, record and hyper-parameters."""
        from torch.utils.tensorboard.summary import hparams

        assert self.writer is not None
        if finished is not None:
            self.look(finished.values, finished.step)
            self.writer.add_text("record", f"```\n{finished.record}\n```", finished.step)
            settings = {k: v if isinstance(v, CUT) else str(v) for k, v in self.config.items()}
            for summary in hparams(settings, finished.values):
                self.writer._get_file_writer().add_summary(summary)
        self.writer.close()
