"""A device's stamps on the host's clock: drift, messages that come late, clocks that wrap, jump or stand still."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syvla.drivers.device_clock import WRAP_NS, DeviceClock

MS = 1_000_000
S = 1_000_000_000
PERIOD_S = 1 / 30
HOST_NS = 5_000 * S  # when it begins


class Device:
    """A camera whose clock runs ``drift`` slower than the host's and stood at ``start_ns`` when it began."""

    def __init__(self, drift: float = 0.0, start_ns: int = 0, late_s: float = 0.003, seed: int = 0) -> None:
        self.drift, self.start_ns, self.late_s = drift, start_ns, late_s
        self._random = np.random.default_rng(seed)

    def frames(self, seconds: float, from_s: float = 0.0) -> Iterator[tuple[int, int, int]]:
        """When each frame truly was, its stamp, and when it arrived: later by an exponential jitter."""
        for k in range(round(seconds / PERIOD_S)):
            true_s = from_s + k * PERIOD_S
            late_s = self._random.exponential(self.late_s) if self.late_s else 0.0
            true_ns = HOST_NS + round(true_s * S)
            yield true_ns, self.start_ns + round(true_s * (1 - self.drift) * S), true_ns + round(late_s * S)


@given(
    drift=st.floats(-1e-4, 1e-4),
    start_ns=st.integers(0, 10**18),
    late_s=st.sampled_from([0.0, 0.001, 0.005]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30, deadline=None)
def test_a_drifting_clock_is_followed_within_its_jitter_and_no_stamp_is_after_its_arrival(
    drift: float, start_ns: int, late_s: float, seed: int
) -> None:
    clock = DeviceClock()
    errors = []
    previous_ns = -1
    for true_ns, device_ns, arrival_ns in Device(drift, start_ns, late_s, seed).frames(60.0):
        host_ns = clock.host_ns(device_ns, arrival_ns)
        assert previous_ns < host_ns <= arrival_ns
        previous_ns = host_ns
        errors.append(host_ns - true_ns)
    settled = np.array(errors[round(10 / PERIOD_S) :])
    assert np.abs(settled).max() < 0.1 * MS + 0.2 * late_s * S
    assert clock.drift == pytest.approx(drift, abs=1e-6 + late_s * 2e-3)
    assert clock.jumps == 0


def test_a_message_that_was_less_late_than_all_before_counts_at_once() -> None:
    clock = DeviceClock()
    stamps = [clock.host_ns(k * 33 * MS, HOST_NS + k * 33 * MS + late_ms * MS) for k, late_ms in enumerate((50, 0, 20))]
    assert stamps == [HOST_NS + 50 * MS, HOST_NS + 33 * MS, HOST_NS + 66 * MS]


def test_drift_that_is_not_followed_would_be_a_millisecond_in_ten_seconds() -> None:
    """What the fit is for: over 60 s at 100 parts per million the offset alone is off by milliseconds."""
    clock = DeviceClock()
    offsets = []
    for true_ns, device_ns, arrival_ns in Device(1e-4).frames(60.0):
        offsets.append(arrival_ns - device_ns)
        error_ns = clock.host_ns(device_ns, arrival_ns) - true_ns
    assert abs(device_ns + min(offsets) - true_ns) > 4 * MS
    assert abs(error_ns) < MS


def test_frames_that_are_all_late_for_a_while_do_not_move_the_clock() -> None:
    clock = DeviceClock()
    device = Device(5e-5)
    for _, device_ns, arrival_ns in device.frames(20.0):
        clock.host_ns(device_ns, arrival_ns)
    for true_ns, device_ns, arrival_ns in device.frames(5.0, from_s=20.0):
        assert clock.host_ns(device_ns, arrival_ns + 200 * MS) - true_ns == pytest.approx(0, abs=MS)
    assert clock.jumps == 0


def test_a_counter_of_32_bits_goes_on_where_it_wraps() -> None:
    clock = DeviceClock()
    start_ns = WRAP_NS - 20 * S
    for true_ns, device_ns, arrival_ns in Device(1e-4, start_ns).frames(60.0):
        error_ns = clock.host_ns(device_ns % WRAP_NS, arrival_ns) - true_ns
    assert abs(error_ns) < MS
    assert clock.jumps == 0
    assert clock.drift == pytest.approx(1e-4, abs=1e-5)


@pytest.mark.parametrize("jump_ns", [-3600 * S, -10 * S, 150 * MS, 10 * S, 3600 * S])
def test_a_clock_that_jumps_is_learnt_anew_and_its_stamps_are_never_in_the_future(jump_ns: int) -> None:
    clock = DeviceClock()
    device = Device(1e-4, 10_000 * S)
    for _, device_ns, arrival_ns in device.frames(20.0):
        clock.host_ns(device_ns, arrival_ns)
    for true_ns, device_ns, arrival_ns in device.frames(20.0, from_s=20.0):
        host_ns = clock.host_ns(device_ns + jump_ns, arrival_ns)
        assert 0 <= arrival_ns - host_ns < 60 * MS
        error_ns = host_ns - true_ns
    assert clock.jumps == 1
    assert abs(error_ns) < MS


@pytest.mark.parametrize("paused_s", [0.6, 30.0])
def test_a_clock_that_stood_still_gives_old_stamps_for_two_seconds_and_is_then_learnt_anew(paused_s: float) -> None:
    clock = DeviceClock()
    device = Device()
    for _, device_ns, arrival_ns in device.frames(20.0):
        clock.host_ns(device_ns, arrival_ns)
    late_ns = round(paused_s * S)
    for true_ns, device_ns, arrival_ns in device.frames(5.0, from_s=20.0):
        host_ns = clock.host_ns(device_ns, arrival_ns + late_ns)
        if true_ns < HOST_NS + 20.9 * S:
            assert arrival_ns + late_ns - host_ns > 0.5 * S, "old until it is sure"
    assert abs(host_ns - true_ns - late_ns) < 5 * MS
    assert clock.jumps == 1


@given(st.lists(st.tuples(st.integers(0, 2**62), st.integers(0, 2**62)), min_size=1, max_size=60))
def test_whatever_a_clock_says_no_stamp_is_after_its_arrival(pairs: list[tuple[int, int]]) -> None:
    clock = DeviceClock()
    for device_ns, arrival_ns in pairs:
        assert clock.host_ns(device_ns, arrival_ns) <= arrival_ns
