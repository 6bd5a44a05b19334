"""Each override against the reference: fresh random inputs, odd sizes, poisoned outputs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from sgcore.kernels import Kernels
from sgcore_triton.kernels import TritonKernels

REFERENCE, KERNELS = Kernels(), TritonKernels()
HAS_GPU = torch.cuda.is_available()
DTYPES = [torch.float32, torch.bfloat16 if HAS_GPU else torch.float16]
"""The interpreter's products in bfloat16 are wrong."""
EPS = 1e-5


@pytest.fixture(autouse=True)
def device() -> Iterator[None]:
    """Tensors are made where the kernels run."""
    torch.set_default_device("cuda" if HAS_GPU else "cpu")
    yield
    torch.set_default_device("cpu")


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a kernel doesn't write stays recognisable."""
    empty, empty_like = torch.empty, torch.empty_like

    def poison(x: torch.Tensor) -> torch.Tensor:
        return x.fill_(float("nan") if x.is_floating_point() else -(2**30))

    monkeypatch.setattr(torch, "empty", lambda *a, **k: poison(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: poison(empty_like(*a, **k)))
    yield


def random(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape).to(dtype)


def assert_same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    tolerance = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[expected.dtype]
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, size", [(1, 64), (5, 100), (3, 576)])
def test_norms_and_gate(dtype: torch.dtype, rows: int, size: int) -> None:
    wide = random(rows, size + 8, dtype=dtype)
    x, residual, weight = wide[:, :size], random(rows, size, dtype=dtype), random(size, dtype=dtype)
    assert_same(KERNELS.rms_norm(x, weight, EPS), REFERENCE.rms_norm(x, weight, EPS))
    for actual, expected in zip(
        KERNELS.add_rms_norm(x, residual, weight, EPS), REFERENCE.add_rms_norm(x, residual, weight, EPS), strict=True
    ):
        assert_same(actual, expected)
    assert_same(KERNELS.silu_mul(x), REFERENCE.silu_mul(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads, kv_heads, head_dim", [(4, 2, 16), (3, 3, 24), (5, 1, 64)])
@pytest.mark.parametrize("is_normed", [False, True])
@pytest.mark.parametrize("tokens", [1, 19])
def test_rotary_write(
    dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int, is_normed: bool, tokens: int
) -> None:
    qkv = random(tokens, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
    norms = (random(head_dim, dtype=dtype), random(head_dim, dtype=dtype), EPS) if is_normed else None
    angles = torch.rand(tokens, 1, head_dim // 2).repeat(1, 1, 2) * 6
    rope = (angles.cos().to(dtype), angles.sin().to(dtype))
    slots = torch.randperm(8 * 16)[:tokens]
    pools = [torch.full((8, 16, kv_heads, head_dim), float("nan"), dtype=dtype) for _ in range(4)]
    expected = REFERENCE.rotary_write(qkv.clone(), heads, norms, *rope, pools[0], pools[1], slots)
    actual = KERNELS.rotary_write(qkv.clone(), heads, norms, *rope, pools[2], pools[3], slots)
    for mine, its in zip(actual, expected, strict=True):
        assert_same(mine, its)
    for mine, its in zip(pools[2:], pools[:2], strict=True):
        assert torch.equal(mine.isnan(), its.isnan())
        assert_same(mine.nan_to_num(), its.nan_to_num())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 2, 3, 11])
@pytest.mark.parametrize("size, rows", [(64, 24), (104, 40)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_products_of_few_tokens(dtype: torch.dtype, tokens: int, size: int, rows: int, has_bias: bool) -> None:
    x, residual, norm = random(tokens, size, dtype=dtype), random(tokens, size, dtype=dtype), random(size, dtype=dtype)
    weight = random(rows, size, dtype=dtype) / size**0.5
    bias = random(rows, dtype=dtype) if has_bias else None
    assert_same(KERNELS.linear(x, weight, bias), REFERENCE.linear(x, weight, bias))
    for added in (None, residual):
        for name in ("add_norm_linear", "add_norm_gated"):
            actual = getattr(KERNELS, name)(x, added, norm, EPS, weight, bias)
            expected = getattr(REFERENCE, name)(x, added, norm, EPS, weight, bias)
            assert_same(actual[0], expected[0])
            assert_same(actual[1], expected[1])


def test_a_row_of_a_product_does_not_depend_on_its_neighbour() -> None:
    x, weight = torch.randn(2, 64), torch.randn(24, 64)
    other = torch.stack((x[0], torch.randn(64)))
    assert torch.equal(KERNELS.linear(x, weight)[0], KERNELS.linear(other, weight)[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, vocabulary", [(1, 1500), (3, 1024), (2, 2601)])
def test_greedy_takes_the_lowest_id_among_equals(dtype: torch.dtype, rows: int, vocabulary: int) -> None:
    logits = random(rows, vocabulary, dtype=dtype)
    assert torch.equal(KERNELS.greedy(logits), logits.argmax(-1))
    logits[:, [7, 900, vocabulary - 1]] = 9.0
    assert KERNELS.greedy(logits).tolist() == [7] * rows


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary, masked", [(50, [2]), (1500, [3, 0]), (2049, [])])
def test_masks(dtype: torch.dtype, vocabulary: int, masked: list[int]) -> None:
    logits, rows = random(4, vocabulary, dtype=dtype), torch.tensor(masked, dtype=torch.int64)
    words = -(-vocabulary // 32)
    masks = torch.randint(-(2**31), 2**31, (len(masked), words), dtype=torch.int64).to(torch.int32)
    expected = REFERENCE.mask_logits(logits.clone(), rows, masks)
    assert torch.equal(KERNELS.mask_logits(logits.clone(), rows, masks), expected)
    for place, row in enumerate(masked):
        allowed = [token for token in range(vocabulary) if int(masks[place, token // 32]) >> (token % 32) & 1]
        assert expected[row].isfinite().nonzero().flatten().tolist() == allowed
    others = [row for row in range(4) if row not in masked]
    assert torch.equal(expected[others], logits[others])


@pytest.mark.parametrize("vocabulary", [50, 1500])
def test_penalties_and_logprobs(vocabulary: int) -> None:
    logits = torch.randn(3, vocabulary)
    counts, seen = torch.randint(0, 3, (3, vocabulary)).float(), torch.rand(3, vocabulary) < 0.5
    strengths = [torch.tensor([[0.5], [0.0], [-0.3]]), torch.tensor([[0.1], [0.2], [0.0]]), torch.rand(3, 1) + 0.5]
    assert_same(
        KERNELS.penalise(logits, counts, seen, *strengths), REFERENCE.penalise(logits, counts, seen, *strengths)
    )
    tokens = torch.randint(0, vocabulary, (3,))
    for top in (0, 4):
        actual, expected = KERNELS.logprobs(logits, tokens, top), REFERENCE.logprobs(logits, tokens, top)
        assert_same(actual[0], expected[0])
        assert_same(actual[1], expected[1])
        assert torch.equal(actual[2], expected[2])


FILTERS = [
    {},
    {"top_k": 1},
    {"top_k": 40},
    {"top_p": 0.6},
    {"min_p": 0.1},
    {"top_k": 30, "top_p": 0.8, "min_p": 0.02},
]


@pytest.mark.parametrize("wanted", FILTERS, ids=str)
def test_draws_equal_the_reference(wanted: dict[str, float]) -> None:
    """Exactly, but where a target lies within rounding of the boundary between two tokens."""
    rows, vocabulary = 24, 700
    logits = torch.randn(rows, vocabulary) * 3
    top_k = torch.full((rows,), int(wanted.get("top_k", vocabulary)))
    top_p, min_p = torch.full((rows,), wanted.get("top_p", 1.0)), torch.full((rows,), wanted.get("min_p", 0.0))
    uniform = torch.rand(rows, dtype=torch.float64)
    actual = KERNELS.sample(logits, top_k, top_p, min_p, uniform)
    expected = REFERENCE.sample(logits, top_k, top_p, min_p, uniform)
    differing = (actual != expected).nonzero().flatten().tolist()
    assert len(differing) <= 1
    rank = logits.argsort(-1, descending=True).argsort(-1)
    for row in differing:
        assert abs(int(rank[row, actual[row]]) - int(rank[row, expected[row]])) == 1


def test_a_draw_does_not_depend_on_its_neighbours() -> None:
    logits, uniform = torch.randn(4, 600), torch.rand(4, dtype=torch.float64)
    filters = (torch.full((4,), 50), torch.full((4,), 0.9), torch.zeros(4))
    together = KERNELS.sample(logits, *filters, uniform)
    for row in range(4):
        alone = slice(row, row + 1)
        assert KERNELS.sample(logits[alone], *(f[alone] for f in filters), uniform[alone]) == together[row]
