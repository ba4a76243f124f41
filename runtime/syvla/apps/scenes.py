"""``syvla scenes``: pictures with questions and answers, of random tables or of what a policy got itself into.

A folder with ``scenes.jsonl``, one line for each picture, written as they are drawn:

    {"image": "000/000123.jpg", "camera": "cam_high",
     "questions": [{"question": ..., "answer": ..., "point": [x, y], "kind": ..., "named": [[x, y], ...]}],
     "things": [{"name": ..., "where": ..., "point": [x, y], "place": [u, v]}], "widths_m": [left, right]}

``point`` is where the thing asked about is [m, in the world frame], or null; ``kind`` what sort of question it is.
``named`` are the points of what an order names. ``things`` are all that the image shows unless something stands before
them; ``where`` is what each is in or on which side it is, in words ("" of a container), and ``place`` where it is, as
shares of the image's width and height; ``widths_m`` is how far the hands are open.
"""

import itertools
import json
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from syvla.apps.director import PERIOD_NS, Director, Episode
from syvla.clock import to_ns
from syvla.config import RigConfig, RunConfig
from syvla.errors import ConfigError
from syvla.messages import SimState, SimTruth
from syvla.recording.images import compress
from syvla.rig import lockstep_host
from syvla.sim.cameras import TwinCameras
from syvla.sim.questions import CONTAINERS, Question, ask, kind_of
from syvla.sim.scene import Table
from syvla.sim.tables import RandomTable, RandomTables
from syvla.sim.tasks import ALL_TASKS
from syvla.sim.tasks.words import state_in_words

CAMERA = "cam_high"
_SHOWN = ("sim/state", "sim/truth")
JPEG_QUALITY = 92
_IN_A_FOLDER = 1000
_EVERY_S, _LONGEST_S = 0.5, 25.0  # of an episode: longer ones mostly show the same again


def random_tables(rig: RigConfig, first_seed: int) -> Iterator[RandomTable]:
    """Those of ``first_seed`` and all seeds after it."""
    drawn = RandomTables(rig)
    return (drawn.draw(seed) for seed in itertools.count(first_seed))


def visited_tables(run: RunConfig, tasks: Iterable[str], first_seed: int) -> Iterator[RandomTable]:
    """What a policy comes upon in the tasks' episodes of ``first_seed`` and all seeds after it, twice a second.

    A demonstration shows what happens if all goes well. What to think when a hand closed on nothing has to be learned
    where that happens.
    """
    for seed, task in ((seed, task) for seed in itertools.count(first_seed) for task in tasks):
        yield from _visited(run, Episode(task, "id", seed, f"{task}-{seed}", _LONGEST_S))


def _visited(run: RunConfig, episode: Episode) -> Iterator[RandomTable]:
    director = Director([episode])
    host = lockstep_host(run, [director])
    due_ns = 0
    try:
        while not director.finished:
            host.run_until(host.now_ns + PERIOD_NS)
            state, truth = (host.latest[name].message if name in host.latest else None for name in _SHOWN)
            if not isinstance(state, SimState) or not isinstance(truth, SimTruth):
                continue
            if state.stamp_ns == truth.stamp_ns >= due_ns and truth.task == episode.task:
                due_ns = truth.stamp_ns + to_ns(_EVERY_S)
                yield RandomTable(state, Table.of(truth))
    finally:
        host.stop()


def write_scenes(
    rig: RigConfig, out: Path, tables: Iterable[RandomTable], count: int, first_seed: int, questions: int
) -> Iterator[int]:
    """Draw ``count`` of ``tables``; yields how many there are after each.

    Args:
        rig: Whose arms stand at the table.
        out: The folder to make.
        tables: What to show.
        count: How many of them.
        first_seed: Questions about table i are drawn by ``first_seed + i``.
        questions: About each table.

    Raises:
        ConfigError: ``out`` exists or cannot be made.
    """
    try:
        out.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"{out}: {error.strerror}; the scenes need a new folder") from error
    with closing(TwinCameras(rig, ALL_TASKS, (CAMERA,))) as cameras, (out / "scenes.jsonl").open("w") as lines:
        for i, shown in enumerate(itertools.islice(tables, count)):
            rng = np.random.default_rng((first_seed + i, questions))
            line = _pictured(shown, ask(shown.table, questions, rng), cameras, out, i)
            lines.write(json.dumps(line) + "\n")
            lines.flush()
            yield i + 1


def _pictured(
    shown: RandomTable, asked: list[Question], cameras: TwinCameras, out: Path, number: int
) -> dict[str, object]:
    cameras.follow(shown.state)
    (frame,) = cameras.read(0)
    image = f"{number // _IN_A_FOLDER:03d}/{number:06d}.jpg"
    if number % _IN_A_FOLDER == 0:
        (out / image).parent.mkdir()
    (out / image).write_bytes(compress(frame, JPEG_QUALITY).jpeg.tobytes())
    return {
        "image": image,
        "camera": CAMERA,
        "questions": [question._asdict() for question in asked],
        "things": _things(shown.table, cameras),
        "widths_m": [round(width_m, 4) for width_m in shown.widths_m],
    }


def _things(table: Table, cameras: TwinCameras) -> list[dict[str, object]]:
    """What the image shows, to the millimetre and the thousandth."""
    points_m = table.pose[:, :3]
    places = cameras.place_in_image(CAMERA, points_m)
    shown = np.all((places >= 0.0) & (places < 1.0), axis=1).tolist()  # NaN is not
    return [
        {
            "name": kind_of(name),
            "where": "" if name in CONTAINERS else state_in_words(table, name),
            "point": point[:2].round(3).tolist(),
            "place": place.round(4).tolist(),
        }
        for name, point, place, there in zip(table.names, points_m, places, shown, strict=True)
        if there
    ]
