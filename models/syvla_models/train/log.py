"""What a training run shows: lines while it goes on, a CSV of every number and a picture of the losses."""

import csv
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from syvla_models.train.state import replace_file

Say = Callable[[str], None]
CSV_FILE = "log.csv"
PLOT_FILE = "losses.png"
SUCCESS = "success/"
_GROUPS = (
    ("train/", "training losses"),
    ("validation/", "validation losses"),
    ("error/", "validation errors (m, rad)"),
    (SUCCESS, "share of episodes that were done, in the closed loop"),
    ("norm/", "norms of the gradients"),
    ("rate/", "learning rates"),
)


def silent(line: str) -> None:
    """What says nothing: the processes beside the first one, which say the same."""


class TrainingLog:
    """Rows of named numbers by step, in ``folder/log.csv``: one line (step, seconds, name, value) for each number.

    Opening it for a run that goes on from ``step`` drops what was logged after it, so that a resumed run's log has
    every step once.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self._path = folder / CSV_FILE
        self._rows: list[tuple[int, float, str, float]] = []
        if step > 0 and self._path.exists():
            with self._path.open(newline="") as file:
                self._rows = [
                    (int(row["step"]), float(row["seconds"]), row["name"], float(row["value"]))
                    for row in csv.DictReader(file)
                    if int(row["step"]) <= step
                ]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("step", "seconds", "name", "value"))
        writer.writerows(_formatted(row) for row in self._rows)
        replace_file(self._path, lambda path: path.write_text(text.getvalue()))

    def write(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """Append one line for each value."""
        rows = [(step, seconds, name, value) for name, value in values.items()]
        self._rows += rows
        with self._path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(_formatted(row) for row in rows)

    def curves(self) -> dict[str, tuple[list[int], list[float]]]:
        """Steps and values by name; values that are not finite are left out."""
        found: dict[str, tuple[list[int], list[float]]] = {}
        for step, _, name, value in self._rows:
            if math.isfinite(value):
                steps, values = found.setdefault(name, ([], []))
                steps.append(step)
                values.append(value)
        return found

    def plot(self) -> Path:
        """Draw every curve into ``losses.png``, one panel for each group of names that has any."""
        from matplotlib.figure import Figure

        curves = self.curves()
        panels = [(prefix, title) for prefix, title in _GROUPS if any(name.startswith(prefix) for name in curves)]
        figure = Figure(figsize=(9, 3.2 * max(1, len(panels))), layout="constrained")
        axes = figure.subplots(max(1, len(panels)), 1, sharex=True, squeeze=False)[:, 0]
        for axis, (prefix, title) in zip(axes, panels, strict=False):
            for name in sorted(curves):
                if name.startswith(prefix):
                    steps, values = curves[name]
                    axis.plot(steps, values, label=name.removeprefix(prefix), linewidth=1.0, marker=".", markersize=2)
            axis.set_title(title, loc="left", fontsize=9)
            if prefix == SUCCESS:
                axis.set_ylim(-0.02, 1.02)
            elif all(
                value > 0.0 for name, (_, values) in curves.items() if name.startswith(prefix) for value in values
            ):
                axis.set_yscale("log")
            axis.grid(alpha=0.3)
            axis.legend(fontsize=7, ncols=2)
        axes[-1].set_xlabel("step")
        path = self._path.with_name(PLOT_FILE)
        replace_file(path, lambda partial: figure.savefig(partial, format="png"))
        return path


def _formatted(row: tuple[int, float, str, float]) -> tuple[int, str, str, str]:
    step, seconds, name, value = row
    return step, f"{seconds:.1f}", name, f"{value:.6g}"
