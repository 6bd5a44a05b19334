"""The radix tree against a brute-force model: the set of cached prefixes of whole pages, each with its page."""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sgcore.cache.pages import PageAllocator
from sgcore.cache.radix import Match, Node, RadixTree

Prefix = tuple[str, tuple[int, ...]]
"""A namespace, and tokens that end with a page: names that page."""

TOKENS = (0, 1 << 24, 1)
"""Few, so that prompts collide; two that differ in their last byte only, as the tree compares bytes."""


def common(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


@dataclass
class Model:
    """What should be cached, and when each page was last used."""

    page_tokens: int
    pages: dict[Prefix, int] = field(default_factory=dict)
    used: dict[Prefix, int] = field(default_factory=dict)
    clock: int = 0

    def prefixes(self, tokens: tuple[int, ...], namespace: str) -> list[Prefix]:
        size = self.page_tokens
        return [(namespace, tokens[:end]) for end in range(size, len(tokens) + 1, size)]

    def touch(self, prefixes: list[Prefix]) -> None:
        self.clock += 1
        self.used.update(dict.fromkeys(prefixes, self.clock))

    def cached(self, tokens: tuple[int, ...], namespace: str) -> list[Prefix]:
        return [prefix for prefix in self.prefixes(tokens, namespace) if prefix in self.pages]

    def nearest(self, tokens: tuple[int, ...], namespace: str, start: int) -> tuple[int, set[int]]:
        """Of the pages that could follow `start` tokens: the longest agreement with what does, and who has it."""
        rest = tokens[start : start + self.page_tokens]
        agree: dict[int, set[int]] = {}
        for (space, prefix), page in self.pages.items():
            if space == namespace and prefix[:start] == tokens[:start] and len(prefix) == start + self.page_tokens:
                agree.setdefault(common(prefix[start:], rest), set()).add(page)
        longest = max(agree, default=0)
        return longest, agree.get(longest, set()) if longest else set()

    def leaves(self) -> set[Prefix]:
        parents = {(space, prefix[: -self.page_tokens]) for space, prefix in self.pages}
        return set(self.pages) - parents


@dataclass
class Request:
    namespace: str
    tokens: tuple[int, ...]
    node: Node
    cached: list[int]
    private: list[int]


class World:
    """A tree, its model, and the requests that use it as a scheduler would."""

    def __init__(self, page_tokens: int, pages: int, vocabulary: int) -> None:
        self.allocator = PageAllocator(pages)
        self.tree = RadixTree(self.allocator, page_tokens)
        self.model = Model(page_tokens)
        self.vocabulary = vocabulary
        self.requests: list[Request] = []
        self.seen: list[tuple[int, ...]] = [()]

    def free(self) -> set[int]:
        return set(filter(self.allocator.is_free, range(1, self.allocator.total + 1)))

    def locked(self) -> set[Prefix]:
        """Every prefix that a running request's lock protects."""
        size = self.model.page_tokens
        return {
            prefix
            for request in self.requests
            for prefix in self.model.prefixes(request.tokens[: len(request.cached) * size], request.namespace)
        }

    # What a scheduler does: each operation takes a number and some bytes, and makes of them what it can.

    def admit(self, number: int, fresh: bytes) -> None:
        tokens, namespace = self.prompt(number, fresh), "ab"[number % 5 == 0]
        found = self.match(tokens, namespace, None if number % 3 else len(tokens) - 1)
        self.tree.lock(found.node)
        self.requests.append(Request(namespace, tokens, found.node, found.pages, []))
        self.grow(self.requests[-1])

    def decode(self, number: int, fresh: bytes) -> None:
        if self.requests:
            request = self.requests[number % len(self.requests)]
            request.tokens += self.tokens(fresh[:3])
            self.grow(request)

    def checkpoint(self, number: int, fresh: bytes) -> None:
        if self.requests:
            request = self.requests[number % len(self.requests)]
            pages = request.cached + request.private
            whole = max(len(request.tokens) // self.model.page_tokens - len(fresh) % 2, len(request.cached))
            node = self.insert(request.tokens[: whole * self.model.page_tokens], pages[:whole], request.namespace)
            request.cached, request.private = self.tree.path_pages(node), pages[whole:]
            self.tree.lock(node)
            self.tree.unlock(request.node)
            request.node = node

    def finish(self, number: int, _: bytes) -> None:
        if self.requests:
            request = self.requests.pop(number % len(self.requests))
            whole = len(request.tokens) // self.model.page_tokens
            pages = request.cached + request.private
            self.insert(request.tokens, pages, request.namespace)
            self.allocator.release(pages[whole:])
            self.tree.unlock(request.node)

    def abort(self, number: int, _: bytes) -> None:
        if self.requests:
            request = self.requests.pop(number % len(self.requests))
            self.allocator.release(request.private)
            self.tree.unlock(request.node)

    def peek(self, number: int, fresh: bytes) -> None:
        self.match(self.prompt(number, fresh), "ab"[number % 2], len(fresh) if number % 3 else None)

    def evict(self, number: int, _: bytes = b"") -> None:
        wanted = number % 6
        before, locked, leaves = dict(self.model.pages), self.locked(), self.model.leaves()
        freed = self.tree.evict(wanted)
        gone = {prefix for prefix, page in before.items() if self.allocator.is_free(page)}
        for prefix in gone:
            del self.model.pages[prefix]
        assert freed == len(gone)
        assert not gone & locked
        assert freed >= wanted or set(self.model.pages) == locked
        passed_over = leaves - gone - locked
        assert all(self.model.used[cold] <= self.model.used[warm] for cold in gone for warm in passed_over)

    def reset(self, number: int, _: bytes) -> None:
        if number % 4 == 0:
            assert self.tree.reset() == (not self.requests)
            if not self.requests:
                self.model.pages.clear()

    # The parts of them that have an expected result.

    def tokens(self, fresh: bytes) -> tuple[int, ...]:
        return tuple(TOKENS[byte % self.vocabulary] for byte in fresh)

    def prompt(self, number: int, fresh: bytes) -> tuple[int, ...]:
        """Some of an earlier prompt, then new tokens."""
        start = self.seen[number % len(self.seen)][: number // 8]
        self.seen.append(start + self.tokens(fresh))
        return self.seen[-1]

    def match(self, tokens: tuple[int, ...], namespace: str, limit: int | None) -> Match:
        found = self.tree.match(list(tokens), namespace, limit)
        asked = tokens if limit is None else tokens[: max(limit, 0)]
        cached = self.model.cached(asked, namespace)
        self.model.touch(cached)
        assert found.pages == [self.model.pages[prefix] for prefix in cached] == self.tree.path_pages(found.node)
        assert found.tokens == len(cached) * self.model.page_tokens
        longest, holders = self.model.nearest(asked, namespace, found.tokens)
        assert found.partial_tokens == longest
        assert found.partial_page in holders if holders else found.partial_page is None
        return found

    def insert(self, tokens: tuple[int, ...], pages: list[int], namespace: str) -> Node:
        given_up = self.model.prefixes(tokens, namespace)
        cached = self.model.cached(tokens, namespace)
        free = self.free()
        node, present = self.tree.insert(list(tokens), list(pages), namespace)
        assert present == len(cached) * self.model.page_tokens
        duplicates = {mine for prefix, mine in zip(cached, pages, strict=False) if mine != self.model.pages[prefix]}
        now_free = self.free()
        assert now_free - free == duplicates
        for prefix, page in zip(given_up, pages, strict=False):
            self.model.pages.setdefault(prefix, page)
        self.model.touch(given_up)
        assert self.tree.path_pages(node) == [self.model.pages[prefix] for prefix in given_up]
        return node

    def grow(self, request: Request) -> None:
        """Give a request pages for all its tokens, evicting for them; drop the request if there are none."""
        missing = -(-len(request.tokens) // self.model.page_tokens) - len(request.cached) - len(request.private)
        if self.allocator.free < missing:
            self.evict(min(missing - self.allocator.free, 5))
        pages = self.allocator.allocate(missing)
        if pages is None:
            self.abort(self.requests.index(request), b"")
        else:
            request.private += pages

    def verify(self) -> None:
        """Everything that must hold between two operations."""
        assert self.tree.check() == []
        assert (self.tree.violations, self.allocator.violations) == (0, 0)
        assert dict(contents(self.tree)) == self.model.pages
        locked = len(self.locked())
        counted = (self.tree.locked_pages, self.tree.evictable_pages, self.tree.total_pages)
        assert counted == (locked, len(self.model.pages) - locked, len(self.model.pages))
        assert all(self.tree.path_pages(request.node) == request.cached for request in self.requests)
        self.verify_owners()

    def verify_owners(self) -> None:
        free = self.free()
        owners = Counter(free)
        owners.update(self.model.pages.values())
        owners.update(page for request in self.requests for page in request.private)
        assert owners == Counter(range(1, self.allocator.total + 1))
        assert self.allocator.free == len(free)


def contents(tree: RadixTree) -> Iterator[tuple[Prefix, int]]:
    """What is cached, read from the nodes alone."""
    waiting: list[tuple[Node, tuple[int, ...]]] = [(tree.root, ())]
    while waiting:
        node, above = waiting.pop()
        tokens = above + tuple(array("i", node.key))
        for index, page in enumerate(node.pages):
            yield (node.label[0], tokens[: len(above) + (index + 1) * tree.page_tokens]), page
        assert len({child.label for child in node.children.values()}) == len(node.children)
        waiting.extend((child, tokens) for child in node.children.values())


OPERATIONS: tuple[Callable[[World, int, bytes], None], ...] = (
    World.admit,
    World.admit,
    World.admit,
    World.decode,
    World.checkpoint,
    World.checkpoint,
    World.finish,
    World.finish,
    World.abort,
    World.peek,
    World.evict,
    World.reset,
)
STEPS = st.lists(
    st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 127), st.binary(max_size=9)), min_size=20, max_size=60
)


@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([1, 2, 4]), st.integers(2, 16), st.integers(2, 3), STEPS)
def test_any_history_agrees_with_the_model(
    page_tokens: int, pages: int, vocabulary: int, steps: list[tuple[Callable[[World, int, bytes], None], int, bytes]]
) -> None:
    world = World(page_tokens, pages, vocabulary)
    for operation, number, fresh in steps:
        operation(world, number, fresh)
        world.verify()
    while world.requests:
        world.finish(0, b"")
        world.verify()
    assert world.tree.evict(pages) == len(world.model.pages)
    assert world.allocator.free == world.allocator.total


def tree_with(page_tokens: int, *prompts: list[int], pages: int = 100) -> tuple[RadixTree, PageAllocator]:
    """A tree in which `prompts` are cached, the first one least recently."""
    allocator = PageAllocator(pages)
    tree = RadixTree(allocator, page_tokens)
    for prompt in prompts:
        tree.insert(prompt, allocator.allocate(len(prompt) // page_tokens) or [])
    return tree, allocator


def test_the_partial_page_is_the_best_of_several() -> None:
    tree, _ = tree_with(4, [1, 2, 9, 9], [1, 2, 3, 9], [1, 9, 9, 9], [2, 2, 3, 4])
    found = tree.match([1, 2, 3, 4, 5])
    assert (found.tokens, found.partial_tokens) == (0, 3)
    assert found.partial_node is not None
    assert tree.path_pages(found.partial_node) == [found.partial_page] == tree.match([1, 2, 3, 9]).pages


@pytest.mark.parametrize(("limit", "tokens", "partial"), [(None, 8, 0), (7, 4, 3), (4, 4, 0), (3, 0, 3), (0, 0, 0)])
def test_a_limit_caps_whole_and_partial_pages(limit: int | None, tokens: int, partial: int) -> None:
    tree, _ = tree_with(4, list(range(8)))
    found = tree.match(list(range(8)), limit=limit)
    assert (found.tokens, found.partial_tokens) == (tokens, partial)


def test_a_negative_limit_matches_nothing() -> None:
    tree, _ = tree_with(1, [1, 2])
    assert tree.match([1, 2], limit=-1).tokens == 0


def test_a_match_may_end_in_a_split_below_a_lock() -> None:
    tree, _ = tree_with(1, [1, 2, 3, 4])
    deep = tree.match([1, 2, 3, 4])
    tree.lock(deep.node)
    middle = tree.match([1, 2, 9])
    assert tree.path_pages(deep.node) == deep.pages
    assert (tree.evict(9), tree.locked_pages) == (0, 4)
    tree.lock(middle.node)
    tree.unlock(deep.node)
    assert (tree.evict(9), tree.locked_pages, tree.check()) == (2, 2, [])


def test_namespaces_share_nothing() -> None:
    tree, allocator = tree_with(2, [1, 2, 3, 4])
    assert tree.match([1, 2, 3, 4], "other").node is tree.root
    assert tree.match([1, 9], "other").partial_tokens == 0
    _, present = tree.insert([1, 2, 3, 4], allocator.allocate(2) or [], "other")
    assert (present, tree.total_pages) == (0, 4)
    assert set(tree.match([1, 2, 3, 4]).pages).isdisjoint(tree.match([1, 2, 3, 4], "other").pages)


def test_eviction_is_least_recently_used_first_and_stops_when_it_has_enough() -> None:
    tree, _ = tree_with(1, [1], [2], [3], [4])
    tree.match([1])
    assert tree.evict(2) == 2
    assert [tree.match([token]).tokens for token in (1, 2, 3, 4)] == [1, 0, 0, 1]
    assert (tree.evict(0), tree.total_pages) == (0, 2)


def test_a_partial_node_can_be_locked_until_it_is_copied() -> None:
    tree, _ = tree_with(4, [1, 2, 3, 4])
    found = tree.match([1, 2, 9, 9])
    assert found.partial_node is not None
    tree.lock(found.partial_node)
    assert tree.evict(1) == 0
    tree.unlock(found.partial_node)
    assert tree.evict(1) == 1


@pytest.mark.parametrize("forget", [lambda tree: tree.evict(9), RadixTree.reset])
def test_an_evicted_node_cannot_be_locked(forget: Callable[[RadixTree], object]) -> None:
    tree, _ = tree_with(1, [1, 2, 3], [1, 5])
    found = tree.match([1, 2])
    forget(tree)
    with pytest.raises(ValueError, match="evicted"):
        tree.lock(found.node)
    assert tree.check() == []


def test_an_unlock_too_many_is_counted_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    tree, _ = tree_with(1, [1, 2])
    tree.unlock(tree.match([1, 2]).node)
    assert (tree.violations, tree.evictable_pages, tree.check()) == (1, 2, [])
    assert "is not locked" in caplog.text


def test_too_few_pages_are_refused_before_anything_changes() -> None:
    tree, allocator = tree_with(2, [1, 2])
    with pytest.raises(ValueError, match="2 whole pages"):
        tree.insert([1, 2, 3, 4, 5], allocator.allocate(1) or [])
    assert (tree.total_pages, tree.check()) == (1, [])


def test_a_reset_waits_for_requests_without_a_prefix_too() -> None:
    tree, allocator = tree_with(1, [1, 2])
    tree.lock(tree.root)
    assert not tree.reset()
    tree.unlock(tree.root)
    assert tree.reset()
    assert (allocator.free, tree.total_pages) == (allocator.total, 0)


@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_arrays_and_lists_are_the_same_tokens(kind: str) -> None:
    tree, _ = tree_with(2, [7, 70000, 3, 2**31 - 1, 5])
    strided = np.array([7, 0, 70000, 0, 3, 0, 2**31 - 1, 0], dtype=kind)[::2]
    assert tree.match(strided).tokens == tree.match([7, 70000, 3, 2**31 - 1]).tokens == 4


@pytest.mark.parametrize("tokens", [[2**31], np.array([2**32 + 1])])
def test_an_id_that_is_not_int32_is_refused(tokens: list[int]) -> None:
    tree, _ = tree_with(1, [1])
    with pytest.raises(OverflowError):
        tree.match(tokens)


def broken_lock(tree: RadixTree) -> None:
    next(iter(tree.root.children.values())).locks = 3


def broken_counter(tree: RadixTree) -> None:
    tree.evictable_pages += 1


def broken_owner(tree: RadixTree) -> None:
    first, second = tree.root.children.values()
    first.pages[0] = second.pages[0]


def broken_free_list(tree: RadixTree) -> None:
    tree.allocator.release(next(iter(tree.root.children.values())).pages)


def broken_label(tree: RadixTree) -> None:
    child = next(iter(tree.root.children.values()))
    child.label = ("", b"else")


def broken_order(tree: RadixTree) -> None:
    tree.root.order.reverse()


def broken_edge(tree: RadixTree) -> None:
    next(iter(tree.root.children.values())).pages.pop()


def broken_queue(tree: RadixTree) -> None:
    next(iter(tree.root.children.values())).is_queued = False


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (broken_lock, "less often than one of its children"),
        (broken_counter, "evictable pages"),
        (broken_owner, "is owned 2 times"),
        (broken_free_list, "is owned but is free"),
        (broken_label, "under another label"),
        (broken_order, "sorted labels"),
        (broken_edge, "bytes of key for"),
        (broken_queue, "not queued"),
    ],
)
def test_check_names_what_is_broken(damage: Callable[[RadixTree], None], words: str) -> None:
    tree, _ = tree_with(1, [1, 2], [3, 4])
    assert tree.check() == []
    damage(tree)
    assert words in " ".join(tree.check())


def fastest(call: Callable[[], object], repeats: int = 50) -> float:
    """Seconds of the fastest of `repeats` calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def test_a_match_of_4096_tokens_takes_less_than_a_third_of_a_millisecond() -> None:
    prompt = list(range(4096))
    tree, _ = tree_with(16, *([*prompt[:cut], *[9] * 16] for cut in range(16, 4096, 64)), prompt, pages=20_000)
    assert tree.match(prompt).tokens == 4096
    assert fastest(lambda: tree.match(prompt)) < 0.0003


def test_the_cost_of_evicting_a_leaf_does_not_grow_with_the_tree() -> None:
    def cost(leaves: int) -> float:
        tree, _ = tree_with(1, *([leaf] for leaf in range(leaves)), pages=leaves + 1)
        return fastest(lambda: tree.evict(1), 200)

    assert cost(20_000) < 10 * cost(200)
