"""The benchmark of the link runs to its end and says what it measured."""

import json

from syvla.bench import BENCHMARKS


def test_the_link_benchmark_reports_raw_and_jpeg_plain_and_encrypted() -> None:
    result, lines = BENCHMARKS["link"](3, True)
    rows = result["variants"]
    assert json.loads(json.dumps(result))["variants"] == rows
    assert [(row["encrypted"], row["images"]) for row in rows] == [
        (encrypted, images) for encrypted in (False, True) for images in ("raw", "JPEG 90")
    ]
    for row in rows:
        assert 0 <= row["packing_p50_ms"] < row["p50_ms"] <= row["p99_ms"]
    assert rows[0]["bytes_up"] > 3 * 640 * 480 * 3 > 5 * rows[1]["bytes_up"]
    assert len(lines) == 5
