"""What every platform has to pass: it says what it is, and does what it says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from threading import Thread
from typing import ClassVar

import pytest
import torch

from sgcore.api import Platform
from sgcore.kernels import Kernels
from sgcore.plugins.installed import Installed


class PlatformSuite:
    """Inherit it, call the class `Test...` and set `platform`."""

    platform: ClassVar[type[Platform]]
    hooks: ClassVar[str | None] = None
    """The plugin's hooks module."""

    @pytest.fixture
    def opened(self) -> Iterator[Platform]:
        threads = torch.get_num_threads()
        platform = self.platform()
        device = platform.initialise(0)
        assert device.type == self.platform.device_type
        yield platform
        # What a platform may set for the whole thread.
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)

    def test_it_says_what_it_is(self) -> None:
        platform = self.platform
        names = {(entry.group, entry.name) for entry in Installed.read().entries}
        assert ("sgcore.platforms", platform.name) in names
        assert ("sgcore.attention", platform.default_attention) in names
        assert platform.dtypes and all(isinstance(getattr(torch, name), torch.dtype) for name in platform.dtypes)
        assert 0 < platform.memory_share <= 1 and platform.run_ahead >= 0

    def test_memory_is_what_the_device_has(self, opened: Platform) -> None:
        memory = opened.memory()
        assert 0 <= memory.free <= memory.total

    def test_kernels_compute_on_the_device(self, opened: Platform) -> None:
        kernels = opened.kernels()
        assert isinstance(kernels, Kernels)
        for name in self.platform.dtypes:
            x = torch.randn(3, 64, device=opened.initialise(0)).to(getattr(torch, name))
            assert kernels.rms_norm(x, torch.ones_like(x[0]), 1e-5).isfinite().all()

    def test_a_capture_computes_with_new_inputs(self, opened: Platform) -> None:
        if not self.platform.can_capture:
            with pytest.raises(RuntimeError, match="captures nothing"):
                opened.capture(lambda: None)
            return
        x = torch.ones(4, device=opened.initialise(0))
        out = torch.zeros_like(x)

        def work() -> None:
            torch.mul(x, 2, out=out)

        work()
        replay = opened.capture(work)
        x.fill_(5)
        replay()
        assert out.tolist() == [10.0] * 4

    def test_others_may_compute_during_a_capture(self, opened: Platform) -> None:
        """As a second engine of the process does."""
        if not self.platform.can_capture:
            pytest.skip("the platform captures nothing")
        x = torch.ones(64, 64, device=opened.initialise(0), dtype=getattr(torch, self.platform.dtypes[0]))
        kernels, found = opened.kernels(), []

        def other() -> None:
            found.append(float(kernels.linear(x, x).sum()))

        def work() -> None:
            thread = Thread(target=other)
            thread.start()
            thread.join()
            x.mul(2)

        opened.capture(work)
        assert found == [64.0**3]

    def test_a_capture_that_fails_does_no_harm(self, opened: Platform) -> None:
        if not self.platform.can_capture:
            pytest.skip("the platform captures nothing")
        x = torch.ones(1 << 20, device=opened.initialise(0))

        def waits() -> None:
            (x * 2).sum().item()

        def breaks() -> None:
            x.mul(2)
            raise RuntimeError("broken")

        for work in (waits, breaks):
            with pytest.raises(RuntimeError):
                opened.capture(work)
            assert float((x * 3).sum()) == 3 * x.numel()
            self.test_a_capture_computes_with_new_inputs(opened)

    def test_hooks_are_light(self) -> None:
        if self.hooks is None:
            pytest.skip("the plugin has no hooks module")
        code = f"import sys, {self.hooks}; assert 'torch' not in sys.modules"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
