"""Steps that are recorded and replayed without the model's Python."""

from __future__ import annotations

import pytest
import torch

from sgcore_cpu.kernels import CpuKernels
from sgcore_cpu.library import recording, usable_levels
from sgcore_cpu.tape import recorded

needs_library = pytest.mark.skipif(
    not usable_levels(), reason="no native library (on Debian: apt install g++; then make setup)"
)


@needs_library
def test_native_calls_and_torchs_are_replayed_in_order() -> None:
    kernels, weight, norm = CpuKernels(), torch.randn(64, 32), torch.rand(32)
    packed, x, table = kernels.pack(weight), torch.randn(3, 32), torch.randn(10, 32)
    places, total = torch.tensor([1, 2, 3]), torch.zeros(3, 64)
    made = []
    with recorded() as tape:
        normed, summed = kernels.add_rms_norm(x, table[places], norm, 1e-5)
        out = kernels.linear(normed * 2, packed)
        total.add_(out)
        made.append((summed, out, total.mean(1)))
    assert not total.any(), "recording has changed what was there before"
    for _ in range(2):
        x.copy_(torch.randn(3, 32))
        places.copy_(torch.randint(0, 10, (3,)))
        total.zero_()
        tape.run()
        expected = torch.nn.functional.rms_norm(x + table[places], (32,), norm, 1e-5) * 2 @ weight.T
        summed, out, means = made[0]
        torch.testing.assert_close(summed, x + table[places])
        torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(total, out)
        torch.testing.assert_close(means, out.mean(1))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no mkldnn")
def test_a_weight_that_torchs_library_has_packed() -> None:
    kernels, weight, x = CpuKernels(), torch.randn(37, 32), torch.randn(3, 32)
    packed = kernels.pack(weight)
    with recorded() as tape:
        out = kernels.linear(x * 2, packed)
    x.copy_(torch.randn(3, 32))
    tape.run()
    assert packed.is_mkldnn
    torch.testing.assert_close(out, x * 2 @ weight.T, atol=1e-4, rtol=1e-4)


def test_zeros_that_are_written_to_are_zeros_again() -> None:
    x = torch.ones(4)
    with recorded() as tape:
        sums = torch.zeros(4)
        sums[:2].add_(x[:2])
    for _ in range(3):
        tape.run()
    assert sums.tolist() == [1.0, 1.0, 0.0, 0.0]


def test_views_of_what_comes_in_stay_views() -> None:
    x = torch.arange(6.0)
    with recorded() as tape:
        out = x.view(2, 3).t()[1] + 1
    x += 10
    tape.run()
    assert out.tolist() == [12.0, 15.0]


@pytest.mark.parametrize("is_inference", [False, True])
@pytest.mark.parametrize(
    "work",
    [
        "x.sum().item()", "float(x[0])", "bool(x.any())", "range(3)[places[0]]", "torch.equal(x, x)", "x.tolist()",
        "x.numpy()", "torch.tensor([x[0], x[1]])", "x.narrow(0, places[0], 1)", "x.nonzero()",
        "x.nonzero(as_tuple=True)", "torch.where(x > 0)", "x[x > 0]", "x.masked_select(x > 0)", "x.unique()",
        "x.repeat_interleave(places)", "torch.combinations(x)", "torch.bincount(places)",
        "torch.tensor_split(x, places)",
    ],
)  # fmt: skip
def test_what_depends_on_values_is_refused(work: str, is_inference: bool) -> None:
    """In inference mode operations that are made of others come whole, without a tag."""
    with torch.inference_mode(is_inference):
        known = {"x": torch.ones(3), "places": torch.zeros(3, dtype=torch.int64), "torch": torch}
        with pytest.raises(RuntimeError, match="depends on values"), recorded():
            eval(work, known)
    assert recording.recorder is None
    assert torch.ones(2).sum().item() == 2


@pytest.mark.parametrize("is_inference", [False, True])
def test_masks_that_keep_the_shape_are_recorded(is_inference: bool) -> None:
    with torch.inference_mode(is_inference):
        x, into = torch.tensor([1.0, -1.0]), torch.zeros(2)
        with recorded() as tape:
            chosen = torch.where(x > 0, x, 7.0)
            into[x > 0] = 5.0
        x.copy_(torch.tensor([-2.0, 3.0]))
        tape.run()
    assert chosen.tolist() == [7.0, 3.0]
    assert into.tolist() == [0.0, 5.0]


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8])
def test_rows_that_are_copied_are_native_calls(dtype: torch.dtype) -> None:
    table, line = torch.arange(40).view(10, 4).to(dtype), torch.arange(10).to(dtype)
    places, target = torch.tensor([3, 0, -1]), torch.zeros(10, dtype=dtype)
    with recorded() as tape:
        inside = places % 10
        found = torch.nn.functional.embedding(inside, table), table[places], line[places], line.index_select(0, inside)
        target.index_copy_(0, inside, line[places])
    assert len(tape.parts) == 2, "the remainder, and one call for all that follows"
    places.copy_(torch.tensor([7, -2, 1]))
    tape.run()
    expected = table[places], table[places], line[places], line[places]
    for rows, right in zip(found, expected, strict=True):
        assert torch.equal(rows, right)
    assert torch.equal(target, torch.zeros_like(target).index_copy_(0, places % 10, line[places]))


def test_other_indices_are_torchs() -> None:
    table, first, second = torch.arange(24.0).view(4, 6), torch.tensor([1, 3]), torch.tensor([0, 5])
    with recorded() as tape:
        found = table[first, second], table.T[second], table[:, second], table.index_select(1, second)
    table += 1
    first.copy_(torch.tensor([0, 2]))
    tape.run()
    for values, right in zip(
        found, (table[first, second], table.T[second], table[:, second], table[:, second]), strict=True
    ):
        assert torch.equal(values, right)
