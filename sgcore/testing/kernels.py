"""What every override of a kernel has to pass: the reference's result on fresh random inputs of odd sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch

from sgcore.cache.rows import MOST, narrowed, widened
from sgcore.kernels import FLOAT8, FLOAT8_MOST, NO_TOKEN, Kernels, expand

REFERENCE = Kernels()
EPS = 1e-5
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
FILTERS = [
    {},
    {"top_k": 1},
    {"top_k": 40},
    {"top_p": 0.6},
    {"min_p": 0.1},
    {"top_k": 30, "top_p": 0.8, "min_p": 0.02},
]


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Standard normal, on the default device."""
    return torch.randn(shape).to(dtype)


def assert_same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal shape, type and, within the type's rounding, values."""
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    tolerance = TOLERANCES.get(expected.dtype, 0.0)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def exact_distribution(logits: torch.Tensor, top_k: float = 0, top_p: float = 1.0, min_p: float = 0.0) -> torch.Tensor:
    """What the filters leave of one row, by their definitions in float64: (vocabulary,), zeros for what they take."""
    weights = logits.double().softmax(-1)
    order = weights.argsort(descending=True, stable=True).tolist()
    order = order[: int(top_k)] if top_k else order
    total, before = float(weights[order].sum()), 0.0
    kept: list[int] = []
    for token in order:
        if kept and (before > top_p * total or float(weights[token]) < min_p * float(weights[order[0]])):
            break
        kept.append(token)
        before += float(weights[token])
    left = torch.zeros_like(weights)
    left[kept] = weights[kept]
    return left / left.sum()


Integers = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
"""Values, scales and zeros."""


def packed(kernels: Kernels, numbers: Integers, bits: int) -> Integers:
    return kernels.pack_int(numbers[0], bits), *kernels.pack_scales(*numbers[1:], bits)


class KernelSuite:
    """Inherit it, call the class `Test...` and set `kernels`."""

    kernels: ClassVar[Kernels]
    device: ClassVar[str] = "cpu"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32,)
    draws: ClassVar[int] = 2000
    """How many are compared with their distribution; fewer where a kernel is interpreted."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Each test once for every type that the kernels compute in."""
        if "dtype" in metafunc.fixturenames:
            metafunc.parametrize("dtype", self.dtypes, ids=str)

    @pytest.fixture(autouse=True)
    def on_the_device(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Tensors are made where the kernels run, and what a kernel doesn't write stays recognisable."""
        empty, empty_like = torch.empty, torch.empty_like

        def poison(x: torch.Tensor) -> torch.Tensor:
            return x.fill_(float("nan") if x.is_floating_point() else torch.iinfo(x.dtype).max // 2)

        monkeypatch.setattr(torch, "empty", lambda *a, **k: poison(empty(*a, **k)))
        monkeypatch.setattr(torch, "empty_like", lambda *a, **k: poison(empty_like(*a, **k)))
        torch.set_default_device(self.device)
        yield
        torch.set_default_device("cpu")

    def both(self, name: str, *args: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Pairs of what the override and the reference return."""
        actual, expected = getattr(self.kernels, name)(*args), getattr(REFERENCE, name)(*args)
        if isinstance(expected, torch.Tensor):
            actual, expected = (actual,), (expected,)
        return zip(actual, expected, strict=True)

    def compare_rounded(self, name: str, *args: Any) -> None:
        """For operations that round their input: a number halfway between two may be rounded to either."""
        for actual, expected in self.both(name, *args):
            assert actual.shape == expected.shape and actual.dtype == expected.dtype
            tolerance = max(TOLERANCES.get(expected.dtype, 0.0), 4e-3)
            torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))

    def compare_float8(
        self,
        name: str,
        inputs: tuple[Any, ...],
        weight: torch.Tensor,
        scale: torch.Tensor,
        bias: Any,
        block: Any,
        *own: Any,
    ) -> None:
        """Of inputs that are rounded, or left as they are."""
        actual = getattr(self.kernels, name)(*inputs, weight, scale, bias, block, *own)
        rounded = getattr(REFERENCE, name)(*inputs, weight, scale, bias, block, *own)
        wide = REFERENCE.widen_fp8(weight, scale, block or (1, weight.shape[1]))
        own_bias = None if bias is None else bias.float()
        plain = getattr(REFERENCE, name.removesuffix("_fp8"))(
            *(x.float() if isinstance(x, torch.Tensor) else x for x in inputs), wide, own_bias
        )
        if isinstance(actual, torch.Tensor):
            actual, rounded, plain = (actual,), (rounded,), (plain,)
        for mine, *others in zip(actual, rounded, plain, strict=True):
            assert mine.shape == others[0].shape and mine.dtype == others[0].dtype
            tolerance = max(TOLERANCES.get(mine.dtype, 0.0), 4e-3)
            errors = [float((mine.float() - other.float()).abs().max() / other.abs().max()) for other in others]
            assert min(errors) < 2 * tolerance, errors

    def compare_integers(self, x: torch.Tensor, numbers: Integers, bits: int, bias: torch.Tensor | None = None) -> None:
        """All products, within `integer_error` of each of their factors."""
        sides = [(kernels, packed(kernels, numbers, bits)) for kernels in (self.kernels, REFERENCE)]

        def results(name: str, *inputs: Any) -> list[Any]:
            return [getattr(kernels, name)(*inputs, *own, bits, bias) for kernels, own in sides]

        norm = random(x.shape[1], dtype=x.dtype)
        for name, factors in (("linear_int", 1), ("gated_int", 3)):
            pairs = [tuple(results(name, x))]
            for residual in (None, random(*x.shape, dtype=x.dtype)):
                pairs += zip(*results(f"add_norm_{name}", x, residual, norm, EPS), strict=True)
            for actual, expected in pairs:
                self.assert_near(actual, expected, factors)

    def assert_near(self, actual: torch.Tensor, expected: torch.Tensor, factors: int) -> None:
        """Within `integer_error` of each of so many factors."""
        assert actual.shape == expected.shape and actual.dtype == expected.dtype
        tolerance = TOLERANCES[expected.dtype]
        largest = float(expected.abs().max()) if len(expected) else 0.0
        error = max(tolerance, factors * self.kernels.integer_error * largest)
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=error)

    def compare(self, name: str, *args: Any) -> None:
        for actual, expected in self.both(name, *args):
            assert_same(actual, expected)

    @pytest.mark.parametrize("rows, size", [(1, 64), (5, 100), (3, 576)])
    def test_norms_and_gate(self, dtype: torch.dtype, rows: int, size: int) -> None:
        x = random(rows, size + 8, dtype=dtype)[:, :size]
        residual, weight = random(rows, size, dtype=dtype), random(size, dtype=dtype)
        self.compare("rms_norm", x, weight, EPS)
        self.compare("add_rms_norm", x, residual, weight, EPS)
        self.compare("silu_mul", x)

    @pytest.mark.parametrize("heads, kv_heads, head_dim", [(4, 2, 16), (3, 3, 24), (5, 1, 64)])
    @pytest.mark.parametrize("is_normed", [False, True])
    @pytest.mark.parametrize("tokens", [1, 19])
    def test_rotary_write(
        self, dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int, is_normed: bool, tokens: int
    ) -> None:
        qkv = random(tokens, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
        norms = (random(head_dim, dtype=dtype), random(head_dim, dtype=dtype), EPS) if is_normed else None
        angles = torch.rand(tokens, 1, head_dim // 2).repeat(1, 1, 2) * 6
        rope = (angles.cos().to(dtype), angles.sin().to(dtype))
        slots = torch.randperm(8 * 16)[:tokens]
        pools = [torch.full((8, 16, kv_heads, head_dim), float("nan"), dtype=dtype) for _ in range(4)]
        expected = REFERENCE.rotary_write(qkv.clone(), heads, norms, *rope, pools[0], pools[1], slots)
        actual = self.kernels.rotary_write(qkv.clone(), heads, norms, *rope, pools[2], pools[3], slots)
        for mine, its in zip(actual, expected, strict=True):
            assert_same(mine, its)
        for mine, its in zip(pools[2:], pools[:2], strict=True):
            assert torch.equal(mine.isnan(), its.isnan())
            assert_same(mine.nan_to_num(), its.nan_to_num())

    def test_a_pool_of_8_bits_takes_what_is_beyond_its_range(self, dtype: torch.dtype) -> None:
        qkv = random(3, 4 * 16, dtype=dtype) * 1000
        rope = torch.ones(3, 1, 16, dtype=dtype), torch.zeros(3, 1, 16, dtype=dtype)
        keys, values = (torch.zeros(1, 16, 1, 16, dtype=FLOAT8) for _ in range(2))
        _, k, v = self.kernels.rotary_write(qkv.clone(), 2, None, *rope, keys, values, torch.arange(3))
        for pool, written in ((keys, k), (values, v)):
            assert written.abs().max() > FLOAT8_MOST
            stored = pool[0, :3].float()
            torch.testing.assert_close(stored, written.float().clamp(-FLOAT8_MOST, FLOAT8_MOST), rtol=0.07, atol=0)

    @pytest.mark.parametrize("kv_heads, head_dim", [(2, 16), (3, 24), (1, 80)])
    def test_a_pool_of_integers_has_a_scale_for_each_row(
        self, dtype: torch.dtype, kv_heads: int, head_dim: int
    ) -> None:
        tokens, size = 19, kv_heads * head_dim
        qkv = random(tokens, 3 * size, dtype=dtype) * torch.logspace(-3, 3, tokens)[:, None].to(dtype)
        qkv[3], qkv[4, -size::head_dim] = 0, 3e4
        angles = torch.rand(tokens, 1, head_dim // 2).repeat(1, 1, 2) * 6
        rope = (angles.cos().to(dtype), angles.sin().to(dtype))
        slots = torch.randperm(4 * 16)[:tokens]
        keys, values = (torch.zeros(4, 16, kv_heads, head_dim + 4, dtype=torch.int8) for _ in range(2))
        _, k, v = self.kernels.rotary_write(qkv, kv_heads, None, *rope, keys, values, slots)
        for pool, written in ((keys, k), (values, v)):
            rows = pool.flatten(0, 1)[slots]
            assert torch.equal(rows, narrowed(written, torch.int8))
            half = written.float().abs().amax(-1, keepdim=True) / MOST * 0.501
            assert ((widened(rows, torch.float32) - written.float()).abs() <= half).all()
            others = torch.ones(4 * 16, dtype=torch.bool).index_fill(0, slots, False)
            assert not pool.flatten(0, 1)[others].any()

    @pytest.mark.parametrize("tokens", [0, 1, 2, 3, 11, 70])
    @pytest.mark.parametrize("size, rows", [(64, 24), (104, 40)])
    @pytest.mark.parametrize("has_bias", [False, True])
    def test_products(self, dtype: torch.dtype, tokens: int, size: int, rows: int, has_bias: bool) -> None:
        x, residual, norm = (random(*shape, dtype=dtype) for shape in ((tokens, size), (tokens, size), (size,)))
        weight = random(rows, size, dtype=dtype) / size**0.5
        bias = random(rows, dtype=dtype) if has_bias else None
        self.compare("linear", x, weight, bias)
        assert_same(self.kernels.linear(x, self.kernels.pack(weight), bias), REFERENCE.linear(x, weight, bias))
        for added in (None, residual):
            self.compare("add_norm_linear", x, added, norm, EPS, weight, bias)
            self.compare("add_norm_gated", x, added, norm, EPS, weight, bias)

    @pytest.mark.parametrize("tokens", [0, 1, 19, 70])
    @pytest.mark.parametrize("bits, groups", [(4, 1), (4, 8), (8, 6)])
    @pytest.mark.parametrize("has_zeros", [False, True])
    def test_integer_products(self, dtype: torch.dtype, tokens: int, bits: int, groups: int, has_zeros: bool) -> None:
        """Groups of 768, 96 and 128 features; scales lie by group, then by row, in memory."""
        size, rows = 768, 40
        x, bias = random(tokens, size, dtype=dtype), random(rows, dtype=dtype)
        values = torch.randint(0, 1 << bits, (rows, size), dtype=torch.uint8)
        scales = ((torch.rand(groups, rows) + 0.1) / (1 << bits) / size**0.5 * 4).half().T
        zeros = torch.randint(0, 1 << bits, (groups, rows), dtype=torch.uint8).T if has_zeros else None
        for added in (None, bias):
            self.compare_integers(x, (values, scales, zeros), bits, added)

    @pytest.mark.parametrize("bits", [4, 8])
    def test_packed_integers_are_put_together_and_taken_apart(self, bits: int) -> None:
        x, sizes = random(3, 128), [24, 16, 7]
        values = torch.randint(0, 1 << bits, (sum(sizes), 128), dtype=torch.uint8)
        scales = (torch.rand(sum(sizes), 2) + 0.1).half()
        given = zip(torch.split(values, sizes), torch.split(scales, sizes), strict=True)
        parts = [packed(self.kernels, (*part, None), bits) for part in given]
        weights = torch.split(torch.cat([part[0] for part in parts]), sizes)
        rates = torch.split(torch.cat([part[1] for part in parts]), sizes)
        for part, weight, rate in zip(parts, weights, rates, strict=True):
            assert_same(self.kernels.linear_int(x, weight, rate, None, bits), self.kernels.linear_int(x, *part, bits))

    @pytest.mark.parametrize("tokens, size, rows", [(1, 1168, 150), (3, 64, 24), (19, 272, 150), (70, 1168, 40)])
    @pytest.mark.parametrize("block", [None, (128, 128), (1, 128)])
    def test_float8_products(
        self, dtype: torch.dtype, tokens: int, size: int, rows: int, block: tuple[int, int] | None
    ) -> None:
        x, bias = random(tokens, size, dtype=dtype), random(rows, dtype=dtype)
        weight = (torch.randn(rows, size) * 80).clamp(-448, 448).to(FLOAT8)
        scale = torch.rand(rows) + 0.1
        if block is not None:
            scale = torch.rand(-(-rows // block[0]), -(-size // block[1])) + 0.1
        scale = scale / 80 / size**0.5
        for added in (None, bias):
            self.compare_float8("linear_fp8", (x,), weight, scale, added, block)
            rounded = REFERENCE.quantize_fp8(x, None, None if block is None else block[1])
            self.compare_rounded("gated_fp8", *rounded, weight, scale, dtype, added, block)
        if block is None:
            self.compare_float8("linear_fp8", (x,), weight, scale, bias, None, torch.tensor([0.004]))
        residual, norm = random(tokens, size, dtype=dtype), random(size, dtype=dtype)
        for added in (None, residual):
            for name in ("add_norm_linear_fp8", "add_norm_gated_fp8"):
                self.compare_float8(name, (x, added, norm, EPS), weight, scale, bias, block)

    @pytest.mark.parametrize("size, group", [(64, None), (100, None), (300, 128)])
    def test_float8_rounding(self, dtype: torch.dtype, size: int, group: int | None) -> None:
        x = random(5, size, dtype=dtype)
        x[3] = 0.0
        for given in (None, torch.tensor([0.003])):
            for (mine, rates), (its, scales) in [
                (self.kernels.quantize_fp8(x, given, group), REFERENCE.quantize_fp8(x, given, group))
            ]:
                torch.testing.assert_close(rates, scales)
                assert mine.dtype == its.dtype == FLOAT8 and mine.shape == its.shape == x.shape
                # Numbers halfway between two may be rounded to either.
                assert (mine.float() != its.float()).float().mean() < 0.02
                torch.testing.assert_close(mine.float(), its.float(), rtol=0.13, atol=2.0**-9)

    @pytest.mark.parametrize("size, group", [(64, None), (300, 128)])
    def test_a_norm_that_rounds(self, dtype: torch.dtype, size: int, group: int | None) -> None:
        x, residual, norm = (random(*shape, dtype=dtype) for shape in ((5, size), (5, size), (size,)))
        for added in (None, residual):
            mine, rates, total = self.kernels.add_norm_fp8(x, added, norm, EPS, None, group)
            its, scales, expected = REFERENCE.add_norm_fp8(x, added, norm, EPS, None, group)
            assert_same(total, expected)
            torch.testing.assert_close(rates, scales, rtol=1e-2, atol=0)
            columns = group or size
            torch.testing.assert_close(
                mine.float() * expand(rates, 1, columns, mine.shape),
                its.float() * expand(scales, 1, columns, its.shape), rtol=0.13, atol=float(scales.max()) * 2,
            )  # fmt: skip

    @pytest.mark.parametrize("tokens", [1, 19])
    @pytest.mark.parametrize("bits, groups", [(4, 24), (8, 6)])
    def test_integers_whose_zero_is_none(self, dtype: torch.dtype, tokens: int, bits: int, groups: int) -> None:
        size, rows = 768, 40
        x = random(tokens, size, dtype=dtype)
        values = torch.randint(0, 1 << bits, (rows, size), dtype=torch.uint8)
        scales = (torch.rand(rows, groups) + 0.1) / (1 << bits) / size**0.5 * 4
        zeros = (torch.rand(rows, groups) * 3 - 1) * (1 << bits)
        self.compare_integers(x, (values, scales, zeros), bits)

    def test_a_quantised_row_does_not_depend_on_its_neighbours(self, dtype: torch.dtype) -> None:
        x, values = random(2, 128, dtype=dtype), torch.randint(0, 16, (24, 128), dtype=torch.uint8)
        other = torch.stack((x[0], random(128, dtype=dtype)))
        integers = (*packed(self.kernels, (values, torch.rand(24, 2), None), 4), 4)
        assert torch.equal(self.kernels.linear_int(x, *integers)[0], self.kernels.linear_int(other, *integers)[0])
        floats = (torch.randn(24, 128).to(FLOAT8), torch.rand(24))
        assert torch.equal(self.kernels.linear_fp8(x, *floats)[0], self.kernels.linear_fp8(other, *floats)[0])

    def test_pages_are_copied(self, dtype: torch.dtype) -> None:
        pool = random(6, 16, 2, 8, dtype=dtype)
        mine, its = pool.clone(), pool.clone()
        for kernels, copied in ((self.kernels, mine), (REFERENCE, its)):
            kernels.copy_pages(copied, torch.tensor([1, 4]), torch.tensor([4, 2]))
        assert torch.equal(mine, its)

    @pytest.mark.parametrize("rows, vocabulary", [(1, 1500), (3, 1024), (2, 2601)])
    def test_greedy_takes_the_lowest_id_among_equals(self, dtype: torch.dtype, rows: int, vocabulary: int) -> None:
        logits = random(rows, vocabulary, dtype=dtype)
        assert torch.equal(self.kernels.greedy(logits), logits.argmax(-1))
        logits[:, [7, 900, vocabulary - 1]] = 9.0
        assert self.kernels.greedy(logits).tolist() == [7] * rows

    @pytest.mark.parametrize("vocabulary", [50, 1500])
    def test_broken_logits_give_no_token(self, dtype: torch.dtype, vocabulary: int) -> None:
        """The rows between them are as they would be alone."""
        nan, infinity = float("nan"), float("inf")
        logits = random(11, vocabulary, dtype=dtype)
        for row, place, value in ((1, 0, nan), (3, vocabulary - 1, nan), (5, 7, infinity), (7, 44, -nan)):
            logits[row, place] = value
        logits[8, :40] = logits[10, 1:] = -infinity
        logits[9] = -infinity
        logits[7, 3] = infinity
        broken, whole = [1, 3, 5, 7, 9], [0, 2, 4, 6, 8, 10]
        greedy = self.kernels.greedy(logits)
        assert greedy[broken].tolist() == [NO_TOKEN] * len(broken)
        assert torch.equal(greedy[whole], logits[whole].argmax(-1))
        limits = (torch.full((11,), vocabulary), torch.full((11,), 0.9), torch.full((11,), 0.01))
        counters = (torch.arange(11), torch.arange(11) * 7)
        drawn = self.kernels.sample(logits.float(), *limits, *counters)
        assert drawn[broken].tolist() == [NO_TOKEN] * len(broken)
        alone = (x[whole] for x in (logits.float(), *limits, *counters))
        assert torch.equal(drawn[whole], self.kernels.sample(*alone)) and drawn[whole].min() >= 0
        assert drawn[10] == 0

    @pytest.mark.parametrize("vocabulary, masked", [(50, [2]), (1500, [3, 0]), (2049, [])])
    def test_masks(self, dtype: torch.dtype, vocabulary: int, masked: list[int]) -> None:
        logits, rows = random(4, vocabulary, dtype=dtype), torch.tensor(masked, dtype=torch.int64)
        words = -(-vocabulary // 32)
        masks = torch.randint(-(2**31), 2**31, (len(masked), words), dtype=torch.int64).to(torch.int32)
        expected = REFERENCE.mask_logits(logits.clone(), rows, masks)
        assert torch.equal(self.kernels.mask_logits(logits.clone(), rows, masks), expected)
        for place, row in enumerate(masked):
            allowed = [token for token in range(vocabulary) if int(masks[place, token // 32]) >> (token % 32) & 1]
            assert expected[row].isfinite().nonzero().flatten().tolist() == allowed
        others = [row for row in range(4) if row not in masked]
        assert torch.equal(expected[others], logits[others])

    @pytest.mark.parametrize("vocabulary", [50, 1500])
    def test_penalties_and_logprobs(self, vocabulary: int) -> None:
        logits = torch.randn(3, vocabulary)
        counts, seen = torch.randint(0, 3, (3, vocabulary)).float(), torch.rand(3, vocabulary) < 0.5
        strengths = [torch.tensor([[0.5], [0.0], [-0.3]]), torch.tensor([[0.1], [0.2], [0.0]]), torch.rand(3, 1) + 0.5]
        self.compare("penalise", logits, counts, seen, *strengths)
        tokens = torch.randint(0, vocabulary, (3,))
        for top in (0, 4):
            self.compare("logprobs", logits, tokens, top)

    @pytest.mark.parametrize("wanted", FILTERS, ids=str)
    def test_draws(self, wanted: dict[str, float]) -> None:
        """Equal, but where the last token that a filter keeps lies within rounding of its limit."""
        rows, vocabulary = 24, 700
        logits = torch.randn(rows, vocabulary) * 3
        top_k = torch.full((rows,), int(wanted.get("top_k", vocabulary)))
        top_p, min_p = torch.full((rows,), wanted.get("top_p", 1.0)), torch.full((rows,), wanted.get("min_p", 0.0))
        counters = torch.randint(0, 2**62, (rows,)), torch.randint(0, 2**20, (rows,))
        ((actual, expected),) = self.both("sample", logits, top_k, top_p, min_p, *counters)
        assert int((actual != expected).sum()) <= ("top_p" in wanted)

    @pytest.mark.parametrize("top_k, top_p", [(5, 1.0), (70, 0.6), (70, 1.0)])
    def test_draws_among_equals(self, top_k: int, top_p: float) -> None:
        """Filters keep the lowest ids of logits that are equal, as those of 16 bits often are."""
        rows, vocabulary = 12, 70
        logits = (torch.randn(rows, vocabulary) * 2).round()
        limits = (torch.full((rows,), top_k), torch.full((rows,), top_p), torch.zeros(rows))
        ((actual, expected),) = self.both("sample", logits, *limits, torch.arange(rows), torch.arange(rows))
        assert int((actual != expected).sum()) <= (top_p < 1)

    @pytest.mark.parametrize("wanted", [{}, {"top_k": 4}, {"top_p": 0.7}, {"min_p": 0.4}], ids=str)
    def test_draws_follow_what_the_filters_keep(self, wanted: dict[str, float]) -> None:
        """Chi-square of draws of one row under many seeds; one in 10,000 of right samplers would fail."""
        count, logits = self.draws, torch.tensor([[0.5, 1.2, 1.0, 0.8, 0.0, -0.3]])
        exact = exact_distribution(logits[0], **wanted)
        top_k = torch.full((count,), int(wanted.get("top_k", logits.shape[1])))
        top_p, min_p = torch.full((count,), wanted.get("top_p", 1.0)), torch.full((count,), wanted.get("min_p", 0.0))
        counters = (torch.arange(count), torch.full((count,), 5))
        repeated = logits.expand(count, -1).contiguous()
        drawn = self.kernels.sample(repeated, top_k, top_p, min_p, *counters)
        found, expected = torch.bincount(drawn, minlength=logits.shape[1]).double(), exact * count
        is_kept = exact > 0
        assert not found[~is_kept].any()
        assert float(((found - expected)[is_kept] ** 2 / expected[is_kept]).sum()) < 26

    @pytest.mark.parametrize("changed", ["seed", "position"])
    def test_other_counters_draw_other_tokens(self, changed: str) -> None:
        rows, vocabulary = 24, 700
        limits = (torch.full((rows,), vocabulary), torch.ones(rows), torch.zeros(rows))
        counting, still = torch.arange(rows), torch.full((rows,), 3)
        counters = (counting, still) if changed == "seed" else (still, counting)
        drawn = self.kernels.sample(torch.zeros(rows, vocabulary), *limits, *counters)
        assert len(set(drawn.tolist())) > rows * 3 // 4  # 23.6 of 24 are expected to differ

    def test_rows_with_and_without_filters_share_a_batch(self) -> None:
        rows, vocabulary = 8, 1500
        logits, counters = torch.randn(rows, vocabulary) * 2, (torch.arange(rows), torch.arange(rows) + 9)
        top_k = torch.tensor([vocabulary, 5, vocabulary, vocabulary] * 2)
        top_p, min_p = torch.tensor([1.0, 1.0, 0.5, 1.0] * 2), torch.tensor([0.0, 0.0, 0.0, 0.3] * 2)
        ((actual, expected),) = self.both("sample", logits, top_k, top_p, min_p, *counters)
        differing = (actual != expected).nonzero().flatten().tolist()
        assert len(differing) <= 1 and all(row % 4 == 2 for row in differing)  # the limit of top-p, within rounding

    def test_a_row_does_not_depend_on_its_neighbours(self) -> None:
        x, weight = torch.randn(2, 64), torch.randn(24, 64)
        other = torch.stack((x[0], torch.randn(64)))
        assert torch.equal(self.kernels.linear(x, weight)[0], self.kernels.linear(other, weight)[0])
        logits, counters = torch.randn(4, 600), (torch.arange(4), torch.arange(4) + 9)
        filters = (torch.full((4,), 50), torch.full((4,), 0.9), torch.zeros(4))
        together = self.kernels.sample(logits, *filters, *counters)
        for row in range(4):
            alone = slice(row, row + 1)
            given = (values[alone] for values in (logits, *filters, *counters))
            assert self.kernels.sample(*given) == together[row]
