"""Two processes share the steps of one run: each reads rows of its own, and one of them writes."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from syvla_models.spec import load_spec

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


_STAGE = """
stage = "finetune"
threads = 1
bfloat16 = false
sources = [
    {{ name = "demos", kind = "demonstrations", paths = ["{data}"], weight = 0.7 }},
    {{ name = "scenes", kind = "scenes", paths = ["{data}"], weight = 0.3 }},
]
budget = {{ max_steps = 3 }}
data = {{ batch_size = 4, action_samples = 2, augment = false, max_prefix = 5, delay_range_s = [0.0, 0.5] }}
action = {{ euler_steps = 2, statistics_samples = 64 }}
output = {{ log_every_steps = 1, validation_rows = 4 }}
model.views = [{{ camera = "cam_high", height = 32, width = 64 }}]
model.expert = {{ width = 48, depth = 1, heads = 2, horizon = 20 }}
"""
_TRAIN = """
import json, os, sys, time
from pathlib import Path
from syvla.runs import load_rig
from syvla_models.train.build import build_stage
from syvla_models.train.config import load_config
from syvla_models.train.trainer import Trainer

folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
config = load_config(folder / "stage.toml", "finetune")
stage = build_stage(config, load_rig(config.rig))
robots = [stage.batches(config, rank)(step).robot for step in range(3)]
def act(checkpoint):
    for success in (True, False):
        time.sleep(0.5)
        yield "fold", success

trainer = Trainer(config, stage, folder / "run", act=act)
trainer.run()
recent = trainer.learner.estimate.recent
found = {
    "rows": [0 if robot is None else len(robot.rows) for robot in robots],
    "recent": recent[recent.isfinite()].tolist(),
    "expert": float(sum(p.double().sum() for p in trainer.learner.expert.parameters())),
}
(folder / f"{rank}.json").write_text(json.dumps(found))
"""


def test_two_processes_decouple_by_the_norms_of_the_first(data: Path, tmp_path: Path) -> None:
    """And by their own of the step; what they learn is one policy, with losses that are numbers."""
    (tmp_path / "stage.toml").write_text(_STAGE.format(data=data))
    (tmp_path / "train.py").write_text(_TRAIN)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, str(tmp_path / "train.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["rows"] != second["rows"] or first["recent"] != second["recent"], "they read rows of their own"
    shared = 20 * sum(first["rows"][:2])
    assert shared > 0
    assert len(first["recent"]) == shared + 20 * first["rows"][2]
    assert len(second["recent"]) == shared + 20 * second["rows"][2]
    assert second["recent"][:shared] == first["recent"][:shared]
    assert math.isclose(first["expert"], second["expert"], rel_tol=1e-9)
    rows = [line.split(",") for line in (tmp_path / "run" / "log.csv").read_text().splitlines()[1:]]
    losses = [float(value) for _, _, name, value in rows if name == "train/action"]
    assert len(losses) == 3
    assert all(map(math.isfinite, losses))


_STOPPED = """
import os, signal, sys
from pathlib import Path
from syvla.runs import load_rig
from syvla_models.train.config import load_config
from syvla_models.train.trainer import train

folder, name, *how = sys.argv[1:]
config = load_config(Path(folder) / "stage.toml", "finetune")

def say(line):
    if "stop" in how and line.startswith("step 1 ("):
        os.kill(os.getpid(), signal.SIGINT)  # one of the two; the other is told by it

sys.exit(0 if train(config, load_rig(config.rig), Path(folder) / name, resume="resume" in how, say=say) else 130)
"""


def test_a_run_of_two_processes_that_was_stopped_goes_on_as_if_it_was_not(data: Path, tmp_path: Path) -> None:
    (tmp_path / "stage.toml").write_text(_STAGE.format(data=data))
    (tmp_path / "train.py").write_text(_STOPPED)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

    def run(*how: str) -> subprocess.CompletedProcess[str]:
        command = [*launcher, str(tmp_path / "train.py"), str(tmp_path), *how]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    whole = run("whole")
    assert whole.returncode == 0, whole.stderr
    stopped = run("run", "stop")
    assert "exitcode  : 130" in stopped.stderr
    assert json.loads((tmp_path / "run" / "state" / "state.json").read_bytes())["step"] == 1
    again = run("run", "resume")
    assert again.returncode == 0, again.stderr
    expected, found = (load_spec(tmp_path / name / "checkpoint") for name in ("whole", "run"))
    assert found.sha256 == expected.sha256
