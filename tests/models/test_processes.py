"""Two processes share the steps of one run: each reads rows of its own, and one of them writes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

_CONFIG = """
stage = "see"
threads = 1
sources = [{{ name = "scenes", kind = "scenes", paths = ["{data}"], weight = 1.0 }}]
budget = {{ max_steps = 3 }}
data = {{ batch_size = 2, augment = false }}
output = {{ log_every_steps = 1, validation_rows = 4 }}
model = {{ views = [{{ camera = "cam_high", height = 32, width = 32 }}] }}
"""


def test_two_processes_train_one_policy(tmp_path: Path) -> None:
    """They did not: on a CPU each took itself for the only one, and both wrote."""
    lines = []
    for k in range(12):
        Image.fromarray(np.full((32, 32, 3), 20 * k, np.uint8)).save(tmp_path / f"{k}.png")
        asked = [{"question": "How grey?", "answer": str(20 * k), "point": [0.3, 0.01 * k]}]
        things = [{"name": "grey", "point": [0.3, 0.01 * k], "place": [0.5, 0.5]}]
        lines.append({"image": f"{k}.png", "camera": "cam_high", "questions": asked, "things": things})
    (tmp_path / "scenes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "see.toml").write_text(_CONFIG.format(data=tmp_path))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "syvla_models.cli", "see", "--config", str(tmp_path / "see.toml"), "--out", str(tmp_path / "run")]
    done = subprocess.run([*launcher, *command], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "see on 2 x cpu" in done.stdout
    assert done.stdout.count("step 3: done") == 1
    rows = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert len({row for row in rows if ",train/total," in row}) == 3
    assert (tmp_path / "run" / "checkpoint" / "model.safetensors").is_file()
