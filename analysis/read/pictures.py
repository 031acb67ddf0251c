"""The pictures that runs have drawn, by the names of their files."""

import re
from pathlib import Path
from typing import NamedTuple
from warnings import catch_warnings

from PIL import Image

from analysis.read.records import RunRecord
from analysis.record import run_folder

MOST_PIXELS = 50_000_000  # of a picture that is read
FILE_NAME = re.compile(r"(?P<name>.+?)(-(?P<epoch>\d{4,}))?")  # without .png; epochs have four digits or more


class Picture(NamedTuple):
    """A picture that a run has drawn."""

    name: str  # tells what it shows
    epoch: int | None  # after which it was drawn; None for those of the run's beginning and of its end
    path: Path

    @property
    def is_of_the_end(self) -> bool:
        """Whether it was drawn when the run ended."""
        return self.epoch is None and self.name != run_folder.PREVIEW


def pictures(record: RunRecord) -> list[Picture]:
    """Return the pictures of a run on this machine, by the names of their files; none for a run on W&B."""
    paths = sorted((Path(record.source) / run_folder.PANELS).glob("*.png")) if record.is_local else []
    matches = [(match, path) for path in paths if (match := FILE_NAME.fullmatch(path.stem))]
    return [Picture(match["name"], int(match["epoch"]) if match["epoch"] else None, path) for match, path in matches]


def newest_pictures(record: RunRecord) -> dict[str, Picture]:
    """Return the newest picture of each name; one that was drawn after an epoch is taken before one of the end."""
    newest: dict[str, Picture] = {}
    for picture in pictures(record):
        known = newest.setdefault(picture.name, picture)
        if (picture.epoch or 0) > (known.epoch or 0):
            newest[picture.name] = picture
    return newest


def read_picture(path: Path) -> Image.Image | None:
    """Return a picture in colours; None where it cannot be read, being half written or vast."""
    try:
        with catch_warnings(action="ignore"), Image.open(path) as image:
            return image.convert("RGB") if image.width * image.height <= MOST_PIXELS else None
    except Exception:  # Pillow has no one class for what damaged files raise
        return None
