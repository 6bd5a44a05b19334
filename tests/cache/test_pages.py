"""The page allocator against a set."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgcore.cache.pages import PageAllocator


def test_every_page_but_the_scratch_page_is_handed_out_once() -> None:
    allocator = PageAllocator(9)
    assert sorted((allocator.allocate(3) or []) + (allocator.allocate(5) or [])) == list(range(1, 9))
    assert (allocator.total, allocator.free) == (8, 0)


def test_too_few_free_pages_takes_nothing() -> None:
    allocator = PageAllocator(5)
    assert allocator.allocate(5) is None
    assert allocator.free == 4


def test_nothing_is_always_available() -> None:
    allocator = PageAllocator(3)
    assert allocator.allocate(0) == []
    assert allocator.free == 2
    assert PageAllocator(1).allocate(0) == []


@pytest.mark.parametrize("wrong", [-1, -3])
def test_a_negative_count_is_refused(wrong: int) -> None:
    allocator = PageAllocator(3)
    with pytest.raises(ValueError, match="cannot allocate"):
        allocator.allocate(wrong)
    assert allocator.free == 2


def test_a_pool_without_a_scratch_page_is_refused() -> None:
    with pytest.raises(ValueError, match="scratch page"):
        PageAllocator(0)


@pytest.mark.parametrize("page", [0, -1, 4, 1000, 2])
def test_a_wrong_release_is_logged_and_counted_and_changes_nothing(page: int, caplog: pytest.LogCaptureFixture) -> None:
    allocator = PageAllocator(4)
    with caplog.at_level(logging.ERROR):
        allocator.release([page])
    assert (allocator.violations, allocator.free) == (1, 3)
    assert f"page {page} " in caplog.text
    assert sorted(allocator.allocate(3) or []) == [1, 2, 3]


def test_a_double_free_within_one_release_is_found() -> None:
    allocator = PageAllocator(4)
    taken = allocator.allocate(2) or []
    allocator.release([*taken, taken[0]])
    assert (allocator.violations, allocator.free) == (1, 3)


@given(st.integers(1, 12), st.lists(st.tuples(st.booleans(), st.integers(-1, 13), st.integers(0, 3)), max_size=60))
def test_any_history_agrees_with_a_set(pages: int, history: list[tuple[bool, int, int]]) -> None:
    allocator = PageAllocator(pages)
    free, wrong = set(range(1, pages)), 0
    for is_release, number, repeat in history:
        if is_release:
            for _ in range(repeat):
                allowed = 0 < number < pages and number not in free
                free |= {number} if allowed else set()
                wrong += not allowed
            allocator.release([number] * repeat)
        else:
            taken = allocator.allocate(repeat)
            assert (taken is None) == (repeat > len(free))
            assert taken is None or (len(set(taken)) == repeat and free.issuperset(taken))
            free -= set(taken or [])
        assert (allocator.free, allocator.violations) == (len(free), wrong)
        assert {page for page in range(-1, pages + 1) if allocator.is_free(page)} == free
