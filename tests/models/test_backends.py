"""Backends of the expert: near the one in torch, or refused."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from tests.models.exports import CPU, change

from syvla.errors import ConfigError
from syvla.message import Float32
from syvla.runs import lockstep_run
from syvla_models import export_cli
from syvla_models.actions import action_space
from syvla_models.backends import choice, tensor_rt
from syvla_models.backends.choice import choose, open_backend
from syvla_models.backends.cuda_graph import CudaGraphBackend
from syvla_models.backends.eager import open_eager
from syvla_models.backends.exported import (
    FOLDER,
    PROBE_FILE,
    Export,
    Parity,
    Probe,
    load_export,
    load_probes,
    parity,
    save_probes,
)
from syvla_models.backends.graphs import write_graphs
from syvla_models.backends.protocol import ChunkInputs, Conditioned
from syvla_models.backends.rounded import Rounded
from syvla_models.checkpoint import load_expert
from syvla_models.expert import TINY, Expert
from syvla_models.flow import denoised
from syvla_models.spec import (
    EXPERT_FILE,
    SLOTS,
    ActionSpec,
    CameraView,
    PlannerSpec,
    PolicySpec,
    load_spec,
    save_spec,
)
from syvla_models.weights import save_tensors

pytest.importorskip("onnx")


def probe(seed: int, prefix: int) -> Probe:
    draw = np.random.default_rng(seed).standard_normal
    inputs = ChunkInputs(
        draw(SLOTS, np.float32), 0.3, draw((50, SLOTS), np.float32), draw((50, SLOTS), np.float32), prefix
    )
    return Probe(draw((20, 192), np.float32), inputs, np.zeros((50, SLOTS), np.float32))


@pytest.mark.parametrize("name", CPU)
@pytest.mark.parametrize("prefix", [0, 1, 7, 50])
def test_a_compiled_chunk_is_the_one_in_torch(exported: Path, name: str, prefix: int) -> None:
    eager, compiled = open_eager(exported, 1), choice.start(name, exported, 1)
    for seed in range(3):
        states, inputs, _ = probe(seed, prefix)
        wanted = eager.chunk(eager.condition(states), inputs)
        found = compiled.chunk(compiled.condition(states), inputs)
        assert found.shape == (50, SLOTS)
        assert np.allclose(found, wanted, atol=2e-5)
        assert np.abs(wanted).max() > 0.1


def test_a_rounded_loop_is_near_and_an_unrounded_one_is_the_same(exported: Path) -> None:
    expert, spec = load_expert(exported)
    eager = open_eager(exported, 1)
    live = torch.from_numpy(action_space(spec.action).live)
    for dtype, near in ((torch.float32, 1e-6), (torch.bfloat16, 0.2)):
        loop = Rounded(expert, dtype)
        states, inputs, _ = probe(0, 5)
        with torch.no_grad():
            cache = expert.condition(torch.from_numpy(states)[None])
            state, age_s = torch.from_numpy(inputs.state)[None], torch.tensor([inputs.age_s])
            noise, rows = torch.from_numpy(inputs.noise)[None], torch.from_numpy(inputs.prefix_rows)[None]
            context = expert.context(cache, state, age_s)
            found = denoised(loop, context, noise, rows, torch.tensor([5]), spec.action.euler_steps, live)[0].numpy()
        wanted = eager.chunk(eager.condition(states), inputs)
        assert found.dtype == np.float32
        off = np.abs(found - wanted).max()
        assert off <= near * np.abs(wanted).max()
        assert bool(off > 1e-4) is (dtype is torch.bfloat16)
        assert np.array_equal(found[:5][:, live.numpy()], inputs.prefix_rows[:5][:, live.numpy()]), (
            "what is given is kept"
        )


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_loop_compiled_by_torch_is_the_expert_in_torch(exported: Path) -> None:
    eager, compiled = open_eager(exported, 1), choice.start("compiled", exported, 1)
    for seed, prefix in ((0, 0), (1, 7), (2, 50), (0, 0)):
        states, inputs, _ = probe(seed, prefix)
        wanted = eager.chunk(eager.condition(states), inputs)
        found = compiled.chunk(compiled.condition(states), inputs)
        assert np.allclose(found, wanted, atol=2e-5)


def test_without_a_compiler_a_compiled_loop_is_refused(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nand much more")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    with pytest.raises(ConfigError, match="cannot compile the expert here: InvalidCxxCompiler: No working C"):
        choice.start("compiled", exported, 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_a_cuda_graph_is_refused(exported: Path) -> None:
    with pytest.raises(ConfigError, match="'cuda_graph' needs an NVIDIA GPU"):
        choice.start("cuda_graph", exported, 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_cuda_graph_is_the_expert_in_torch(exported: Path) -> None:
    eager = open_eager(exported, 1)
    expert, spec = load_expert(exported)
    for dtype, near in ((torch.float32, 1e-3), (torch.float16, 0.02), (torch.bfloat16, 0.2)):
        backend = CudaGraphBackend(expert, spec.action, dtype)
        for seed, prefix in ((0, 0), (1, 7), (0, 0)):
            states, inputs, _ = probe(seed, prefix)
            wanted = eager.chunk(eager.condition(states), inputs)
            found = backend.chunk(backend.condition(states), inputs)
            assert np.abs(found - wanted).max() <= near * np.abs(wanted).max()


@pytest.mark.parametrize("name", CPU)
def test_an_intent_that_is_still_used_is_not_changed_by_the_next(exported: Path, name: str) -> None:
    backend = choice.start(name, exported, 1)
    first, inputs, _ = probe(0, 3)
    conditioned = backend.condition(first)
    before = backend.chunk(conditioned, inputs)
    kept = before.copy()
    backend.chunk(backend.condition(probe(1, 3).query_states), probe(1, 3).inputs)
    assert np.array_equal(backend.chunk(conditioned, inputs), before)
    assert np.array_equal(before, kept), "nor is a chunk that was given away"


def test_auto_is_the_fastest_that_was_accepted_and_torch_without_an_export(policy: Path, folder: Path) -> None:
    def speeds(openvino_ms: float) -> Callable[[Export], Export]:
        def edit(export: Export) -> Export:
            tried = dict(export.tried)
            tried["onnxruntime"] = msgspec.structs.replace(tried["onnxruntime"], median_ms=2.0)
            tried["openvino"] = msgspec.structs.replace(tried["openvino"], median_ms=openvino_ms)
            return msgspec.structs.replace(export, tried=tried)

        return edit

    for openvino_ms, best in ((1.0, "openvino"), (3.0, "onnxruntime")):
        change(policy, speeds(openvino_ms))
        assert choose(policy, "auto") == lockstep_run("twin", 0.3, 0.03, str(policy)).backend == best
    assert open_backend(policy, "auto", 1).name == "onnxruntime"
    assert choose(folder, "auto") == "eager"
    assert lockstep_run("twin", 0.3, 0.03, "reference").backend == "eager"


def test_auto_passes_over_what_lacks_something_here(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export that was made beside a GPU, copied to a computer that has the packages and no GPU."""

    def edit(export: Export) -> Export:
        one = export.tried["onnxruntime"]
        fast = {
            name: msgspec.structs.replace(one, median_ms=0.1) for name in ("cuda_graph", "tensorrt_rtx", "compiled")
        }
        return msgspec.structs.replace(export, tried={**fast, **export.tried})

    change(policy, edit)
    monkeypatch.setattr(choice, "installed", lambda name: True)
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def without_a_gpu(name: str) -> None:
        raise ConfigError(f"backend {name!r} needs an NVIDIA GPU and its driver")

    monkeypatch.setattr(tensor_rt, "gpu", without_a_gpu)
    assert choose(policy, "auto") in CPU
    assert lockstep_run("twin", 0.3, 0.03, str(policy)).backend in CPU
    assert "backend 'compiled' needs a C++ compiler: " in str(choice.lacking("compiled"))
    with pytest.raises(ConfigError, match="'cuda_graph' needs an NVIDIA GPU"):
        open_backend(policy, "cuda_graph", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose(policy, "auto") == "cuda_graph"


@pytest.mark.parametrize("name", CPU)
def test_a_robots_expert_that_is_told_no_way_is_exported_too(name: str, tmp_path: Path) -> None:
    """What is told of the way depends on nothing in it: OpenVINO drops that input, and all behind it had moved up."""
    torch.manual_seed(0)
    config = msgspec.structs.replace(TINY, intent_width=192, depth=1, aimed=False)
    expert = Expert(config).eval()
    with torch.no_grad():
        for layer in (expert.time_out, expert.action_out):  # they begin at zero
            layer.weight.normal_(0.0, 0.1)
    planner = PlannerSpec(views=(CameraView(camera="cam_high", height=28, width=28),), hidden_size=192)
    action = ActionSpec(space="joint", offset=((0.0,) * SLOTS,), scale=((1.0,) * SLOTS,), euler_steps=2)
    save_tensors(tmp_path / EXPERT_FILE, expert.state_dict())
    save_spec(tmp_path, PolicySpec(name="unaimed", planner=planner, expert=config, action=action))
    (tmp_path / FOLDER).mkdir()
    write_graphs(tmp_path / FOLDER, expert, action)
    eager, compiled = open_eager(tmp_path, 1), choice.start(name, tmp_path, 1)
    states, inputs, _ = probe(0, 4)
    wanted = eager.chunk(eager.condition(states), inputs)
    assert np.allclose(compiled.chunk(compiled.condition(states), inputs), wanted, atol=2e-5)
    assert np.abs(wanted).max() > 0.1


def test_what_cannot_be_used_is_refused_with_the_choices(
    policy: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="no backend 'tensorflow'; there are auto, eager, compiled, cuda_graph, onnx"):
        lockstep_run("twin", 0.3, 0.03, str(policy), backend="tensorflow")
    with pytest.raises(ConfigError, match="has not been exported: syvla-export"):
        open_backend(folder, "onnxruntime", 1)
    with pytest.raises(ConfigError, match=r"'openvino_bf16' was not tried when .* it has onnxruntime, openvino"):
        open_backend(policy, "openvino_bf16", 1)
    monkeypatch.setattr(choice, "installed", lambda name: False)
    with pytest.raises(ConfigError, match=r"openvino is missing; it needs: pip install 'syvla\[openvino\]'"):
        choose(policy, "openvino")
    with pytest.raises(ConfigError, match=r"no backend is installed: pip install 'syvla\[onnx,openvino,tensorrt\]'"):
        export_cli.export(str(policy))


def test_a_backend_that_was_not_accepted_does_not_start(policy: Path) -> None:
    def edit(export: Export) -> Export:
        far = Parity(worst_rad=0.0124, worst_gripper_m=0.0)
        other = msgspec.structs.replace(export.tried["onnxruntime"], done=3, done_eager=18, episodes=20)
        tried = {
            "onnxruntime": msgspec.structs.replace(export.tried["onnxruntime"], parity=far),
            "openvino": msgspec.structs.replace(other, same_success=False),
        }
        return msgspec.structs.replace(export, tried=tried)

    change(policy, edit)
    with pytest.raises(ConfigError, match=r"'onnxruntime' was not accepted .*: 12.4 mrad in the worst joint \(2 allow"):
        open_backend(policy, "onnxruntime", 1)
    with pytest.raises(ConfigError, match=r"'openvino' was not accepted .* done 3 of 20 episodes, in torch 18"):
        open_backend(policy, "openvino", 1)
    assert choose(policy, "auto") == "eager"


def test_a_backend_that_is_off_on_this_machine_does_not_start(policy: Path) -> None:
    """Another processor, another version of a library: what was accepted once is held against torch's answers again."""
    probes = load_probes(policy / FOLDER / PROBE_FILE)
    joint = 9  # the first joint of the left arm, among the slots
    probes[5].wanted[49, joint] += 0.1  # times its scale, 0.05
    save_probes(policy / FOLDER / PROBE_FILE, probes)
    change(policy, lambda export: export)
    with pytest.raises(ConfigError, match=r"'onnxruntime' of .* is off by 5 mrad in the worst joint \(2 allowed\)"):
        open_backend(policy, "onnxruntime", 1)


def test_what_is_not_a_number_is_not_near(exported: Path) -> None:
    class Broken:
        name = "broken"

        def condition(self, query_states: Float32) -> Conditioned:
            return ()

        def chunk(self, conditioned: Conditioned, inputs: ChunkInputs) -> Float32:
            return np.full((50, SLOTS), np.nan, np.float32)

    found = parity(Broken(), load_probes(exported / FOLDER / PROBE_FILE), load_spec(exported).action)
    assert found.worst_rad == np.inf
    assert not found.accepted
    assert not Parity(worst_rad=float("nan"), worst_gripper_m=0.0).accepted


def test_an_export_that_was_changed_or_is_of_another_checkpoint_is_refused(policy: Path) -> None:
    spec = load_spec(policy)
    steps = msgspec.structs.replace(spec, action=msgspec.structs.replace(spec.action, euler_steps=7))
    with pytest.raises(ConfigError, match="made from another expert, action space or number of steps"):
        load_export(policy, steps)
    graph = policy / FOLDER / "denoise.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    with pytest.raises(ConfigError, match=r"denoise\.onnx has sha256 .*, export\.json says"):
        open_backend(policy, "onnxruntime", 1)


def test_a_robot_without_torch_acts(exported: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from syvla.runs import load_rig\n"
        "from syvla_models.learned_expert import LearnedExpert\n"
        f"expert = LearnedExpert(Path({str(exported)!r}), load_rig('twin'), 1, 'onnxruntime')\n"
        "print(expert.backend.name, 'transformers' in sys.modules)"
    )
    path = ":".join(["runtime", "models"])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": path}
    )
    assert done.stdout.split() == ["onnxruntime", "False"]
