"""The pictures of a report in TensorBoard, beside the curves of the run."""

import time
from collections.abc import Sequence
from pathlib import Path

from hydralign.report.canvas import Picture

SUFFIX = ".report"
"""What the name of the file ends with."""


def show_pictures(folder: Path, pictures: Sequence[Picture]) -> None:
    """Write pictures for TensorBoard; those of an earlier report are replaced.

    The file is one of its own, so the run's own files stay as they are.

    Args:
        folder: of the run.
        pictures: each is shown once, by its name.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    for earlier in folder.glob(f"events.out.tfevents.*{SUFFIX}"):
        earlier.unlink(missing_ok=True)
    writer = EventFileWriter(str(folder), filename_suffix=SUFFIX)
    for shown in pictures:
        width, height = (int.from_bytes(shown.png[at : at + 4], "big") for at in (16, 20))
        held = Summary.Image(
            encoded_image_string=shown.png, width=width, height=height, colorspace=4
        )
        value = Summary.Value(tag=f"report/{shown.name}", image=held)
        writer.add_event(Event(wall_time=time.time(), summary=Summary(value=[value])))
    writer.close()
