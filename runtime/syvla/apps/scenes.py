"""``syvla scenes``: pictures of random tables with questions and answers, for pre-training and for a held-out set.

A folder with ``scenes.jsonl``, one line for each picture, written as they are drawn:

    {"image": "000/000123.jpg", "camera": "cam_high",
     "questions": [{"question": ..., "answer": ..., "point": [x, y]}],
     "things": [{"name": ..., "point": [x, y], "place": [u, v]}]}

``point`` is where the thing asked about is [m, in the world frame], or null. ``things`` are all that the image shows
unless something stands before them; ``place`` is where, as shares of the image's width and height.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from syvla.config import RigConfig
from syvla.errors import ConfigError
from syvla.recording.images import compress
from syvla.sim.cameras import TwinCameras
from syvla.sim.questions import ask, kind_of
from syvla.sim.scene import Table
from syvla.sim.tables import RandomTables
from syvla.sim.tasks import ALL_TASKS

CAMERA = "cam_high"
JPEG_QUALITY = 92
_IN_A_FOLDER = 1000


def write_scenes(rig: RigConfig, out: Path, count: int, first_seed: int, questions: int) -> Iterator[int]:
    """Write the tables of ``count`` seeds from ``first_seed`` on; yields how many pictures there are after each.

    Raises:
        ConfigError: ``out`` exists or cannot be made.
    """
    tables = RandomTables(rig)
    try:
        out.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"{out}: {error.strerror}; the scenes need a new folder") from error
    cameras = TwinCameras(rig, ALL_TASKS, (CAMERA,))
    try:
        with (out / "scenes.jsonl").open("w") as lines:
            for i in range(count):
                seed = first_seed + i
                shown = tables.draw(seed)
                cameras.follow(shown.state)
                (frame,) = cameras.read(0)
                image = f"{i // _IN_A_FOLDER:03d}/{i:06d}.jpg"
                if i % _IN_A_FOLDER == 0:
                    (out / image).parent.mkdir()
                (out / image).write_bytes(compress(frame, JPEG_QUALITY).jpeg.tobytes())
                asked = ask(shown.table, questions, np.random.default_rng((seed, questions)))
                line = {
                    "image": image,
                    "camera": CAMERA,
                    "questions": [question._asdict() for question in asked],
                    "things": _things(shown.table, cameras),
                }
                lines.write(json.dumps(line) + "\n")
                lines.flush()
                yield i + 1
    finally:
        cameras.close()


def _things(table: Table, cameras: TwinCameras) -> list[dict[str, object]]:
    """What the image shows, to the millimetre and the thousandth."""
    points_m = table.pose[:, :3]
    places = cameras.place_in_image(CAMERA, points_m)
    shown = np.all((places >= 0.0) & (places < 1.0), axis=1).tolist()  # NaN is not
    return [
        {"name": kind_of(name), "point": point[:2].round(3).tolist(), "place": place.round(4).tolist()}
        for name, point, place, there in zip(table.names, points_m, places, shown, strict=True)
        if there
    ]
