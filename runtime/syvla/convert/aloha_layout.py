"""What an ALOHA episode is made of, as the Cobot Magic's own recorder writes it: one HDF5 file.

``/observations/{qpos,qvel,effort}`` (T, 14), ``/observations/images/<camera>`` (T, H, W, 3) uint8, or where the root's
attribute ``compress`` is true (T, n) JPEG files padded with zeros, whose lengths are in ``/compress_len`` (cameras, T);
``/action`` (T, 14) and ``/base_action`` (T, 2). Beside it, for what the layout has no place for: ``/intervention`` (T,)
bool, and the attributes ``instruction``, ``outcome``, ``fps``, ``name`` and ``run``.
"""

QPOS, QVEL, EFFORT = "observations/qpos", "observations/qvel", "observations/effort"
ACTION, BASE_ACTION = "action", "base_action"
IMAGES = "observations/images"
LENGTHS = "compress_len"
INTERVENTION = "intervention"
VECTORS = {QPOS: "state", QVEL: "velocity", EFFORT: "effort", ACTION: "action"}
TEXTS = {"instruction": 1024, "outcome": 32, "name": 128, "run": 2**20}  # attributes, and the most characters
EPISODE = "episode_{}.hdf5"
