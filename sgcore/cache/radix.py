"""The prefix cache: a radix tree from token ids to the pages that hold their keys and values.

Edges are whole pages. A page is owned by exactly one of: the allocator's free list, one node of the tree, one request.
So `allocator.free + evictable_pages + locked_pages + (pages private to requests) == allocator.total`, always.

Source: RadixAttention, arXiv 2312.07104.
"""

from __future__ import annotations

import logging
from array import array
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
import numpy.typing as npt

from sgcore.cache.pages import PageAllocator

logger = logging.getLogger(__name__)

TOKEN_BYTES = 4

Label = tuple[str, bytes]
"""A node's name among its siblings: the namespace and the first page of its key."""

Tokens = Sequence[int] | npt.NDArray[np.int32]


class Node:
    """An edge of the tree and the point where it ends.

    `key` is the edge's token ids as int32 bytes, whole pages; `pages` holds as many page ids. A node that is split
    stays the lower part, so whoever holds it still holds the same prefix.
    """

    __slots__ = ("children", "is_queued", "key", "label", "last_access", "locks", "order", "pages", "parent")

    def __init__(self, parent: Node | None, label: Label, key: bytes, pages: list[int]) -> None:
        self.parent = parent
        self.label = label
        self.key = key
        self.pages = pages
        self.children: dict[Label, Node] = {}
        self.order: list[Label] = []  # the children's labels, sorted: the nearest to a page is a neighbour of it
        self.locks = 0
        self.last_access = 0
        self.is_queued = False

    def adopt(self, child: Node) -> None:
        """Hang `child`, whose label no other child has, below this node."""
        child.parent = self
        self.children[child.label] = child
        insort(self.order, child.label)

    def abandon(self, child: Node) -> None:
        """Cut `child` off; afterwards it belongs to no tree."""
        child.parent = None
        del self.children[child.label]
        del self.order[bisect_left(self.order, child.label)]


@dataclass(slots=True)
class Match:
    """The longest cached prefix of a request.

    `pages` hold the first `tokens` tokens, whole pages, and end at `node`. If the page after them is cached in part,
    the first `partial_tokens` rows of `partial_page` are the request's next tokens, to be copied into a page of its
    own. That page belongs to `partial_node`, which locking `node` does not lock: lock it as well if something may be
    evicted before the copy is done.
    """

    node: Node
    pages: list[int]
    tokens: int
    partial_page: int | None = None
    partial_tokens: int = 0
    partial_node: Node | None = None


class RadixTree:
    """Prefixes of `page_tokens`-sized pages; evicts the least recently used leaf first.

    Not thread-safe. Time is a counter that each `match` and `insert` moves by one.
    """

    def __init__(self, allocator: PageAllocator, page_tokens: int) -> None:
        if page_tokens < 1:
            raise ValueError(f"a page holds at least one token, got {page_tokens}")
        self.allocator = allocator
        self.page_tokens = page_tokens
        self.root = Node(None, ("", b""), b"", [])
        self.evictable_pages = 0
        self.locked_pages = 0
        self.violations = 0
        self._page_bytes = page_tokens * TOKEN_BYTES
        self._clock = 0
        self._serial = 0
        # At most one entry for each node. An entry may be older than its node's last access, never newer, so an entry
        # that is up to date when it comes out is the least recently used; the others are put back or dropped then.
        self._queue: list[tuple[int, int, Node]] = []

    @property
    def total_pages(self) -> int:
        """How many pages the tree owns."""
        return self.evictable_pages + self.locked_pages

    def match(self, tokens: Tokens, namespace: str = "", limit: int | None = None) -> Match:
        """Find the longest cached prefix of the first `limit` tokens; O(pages matched).

        `tokens` are a list or an int32 array. The result is safe to use until the next `evict`; `lock` its node to keep
        it. Splits an edge if the match ends inside it. Raises OverflowError for an id that isn't an int32.
        """
        wanted = _token_bytes(tokens, limit)
        node, pages = self._walk(wanted, namespace)
        found = Match(node, pages, len(pages) * self.page_tokens)
        start = len(pages) * self._page_bytes
        self._match_partial(found, (namespace, wanted[start : start + self._page_bytes]))
        return found

    def lock(self, node: Node) -> None:
        """Keep `node` and the path to it from being evicted, until as many calls of `unlock`.

        Raises ValueError if the node was evicted already: its pages are no longer the caller's to read.
        """
        if node.parent is None and node is not self.root:
            raise ValueError("the node was evicted: lock a match before anything is evicted")
        for each in _upwards(node):
            if each.locks == 0:
                self._count_locked(len(each.pages))
            each.locks += 1

    def unlock(self, node: Node) -> None:
        """Take back one `lock`. One that was never taken is logged, counted and ignored."""
        if node.locks == 0:
            self.violations += 1
            logger.error("a node of %d pages was unlocked but is not locked", len(node.pages))
            return
        for each in _upwards(node):
            each.locks -= 1
            if each.locks == 0:
                self._count_locked(-len(each.pages))
                self._enqueue(each)

    def insert(self, tokens: Tokens, pages: list[int], namespace: str = "") -> tuple[Node, int]:
        """Cache the whole pages of `tokens`; return the node where they end and how many tokens were cached before.

        `pages[i]` holds tokens `[i * page_tokens, (i + 1) * page_tokens)`. In the range cached before, a page that is
        not the tree's own is a duplicate and is released; the pages after it now belong to the tree. So the caller
        gives up all of them, and rereads `path_pages`. A last page that isn't full, and what follows it, stay the
        caller's. Raises ValueError if `pages` are too few.
        """
        key = _token_bytes(tokens, None)
        key = key[: self._whole(len(key))]
        count = len(key) // self._page_bytes
        if len(pages) < count:
            raise ValueError(f"{count} whole pages of tokens but only {len(pages)} page ids")
        node, cached = self._walk(key, namespace)
        present = len(cached)
        self.allocator.release(mine for mine, its in zip(pages, cached, strict=False) if mine != its)
        if present < count:
            node = self._grow(node, namespace, key[present * self._page_bytes :], pages[present:count])
        return node, present * self.page_tokens

    def path_pages(self, node: Node) -> list[int]:
        """The pages of the whole prefix that ends at `node`."""
        edges = [each.pages for each in _upwards(node)]
        return [page for edge in reversed(edges) for page in edge]

    def evict(self, pages: int) -> int:
        """Free at least `pages` pages if as many are evictable, whole leaves at a time; return how many.

        O(log n) for each node, and for each touch since the node was queued.
        """
        freed = 0
        while freed < pages and (node := self._pop_coldest()) is not None:
            freed += self._drop(node)
        return freed

    def reset(self) -> bool:
        """Forget everything and free its pages; False, and nothing done, if any node (the root too) is locked."""
        if self.root.locks:
            return False
        for node in list(_below(self.root)):
            self.allocator.release(node.pages)
            node.parent = None
        self.root.children.clear()
        self.root.order.clear()
        self._queue.clear()
        self.evictable_pages = 0
        return True

    def check(self) -> list[str]:
        """Every invariant that does not hold, as text; O(pages cached), for tests and for a health check."""
        nodes = list(_below(self.root))
        return [
            *(problem for node in (self.root, *nodes) for problem in self._node_problems(node)),
            *self._page_problems(nodes),
            *self._counter_problems(nodes),
        ]

    def _whole(self, size: int) -> int:
        return size - size % self._page_bytes

    def _walk(self, key: bytes, namespace: str) -> tuple[Node, list[int]]:
        """Follow `key` as far as whole pages of it are cached, touching and splitting; the last node and the pages."""
        self._clock += 1
        node, pages, start = self.root, list[int](), 0
        while start < len(key):
            child = node.children.get((namespace, key[start : start + self._page_bytes]))
            if child is None:
                break
            shared = self._whole(_common_bytes(child.key, key[start : start + len(child.key)]))
            node = child if shared == len(child.key) else self._split(child, shared)
            node.last_access = self._clock
            pages += node.pages
            start += shared
        return node, pages

    def _split(self, node: Node, at: int) -> Node:
        """Cut an edge after `at` bytes; return the new upper part. `node` itself stays the lower part."""
        parent = node.parent
        assert parent is not None
        upper = Node(parent, node.label, node.key[:at], node.pages[: at // self._page_bytes])
        upper.locks, upper.last_access = node.locks, node.last_access
        parent.children[upper.label] = upper
        node.key, node.pages = node.key[at:], node.pages[len(upper.pages) :]
        node.label = (node.label[0], node.key[: self._page_bytes])
        upper.adopt(node)
        return upper

    def _grow(self, parent: Node, namespace: str, key: bytes, pages: list[int]) -> Node:
        leaf = Node(parent, (namespace, key[: self._page_bytes]), key, pages)
        leaf.last_access = self._clock
        parent.adopt(leaf)
        self.evictable_pages += len(pages)
        self._enqueue(leaf)
        return leaf

    def _match_partial(self, found: Match, wanted: Label) -> None:
        """Complete `found` with the child whose first page agrees longest with `wanted`."""
        order = found.node.order
        place = bisect_left(order, wanted)
        for label in order[max(place - 1, 0) : place + 1]:
            shared = _common_bytes(label[1], wanted[1]) // TOKEN_BYTES if label[0] == wanted[0] else 0
            if shared > found.partial_tokens:
                child = found.node.children[label]
                found.partial_page, found.partial_tokens, found.partial_node = child.pages[0], shared, child

    def _count_locked(self, pages: int) -> None:
        self.locked_pages += pages
        self.evictable_pages -= pages

    def _is_evictable(self, node: Node) -> bool:
        return not (node.locks or node.children or node is self.root)

    def _enqueue(self, node: Node) -> None:
        """Queue a node for eviction if it may be evicted and isn't queued."""
        if not node.is_queued and self._is_evictable(node):
            node.is_queued = True
            self._serial += 1
            heappush(self._queue, (node.last_access, self._serial, node))

    def _pop_coldest(self) -> Node | None:
        while self._queue:
            queued_access, _, node = heappop(self._queue)
            node.is_queued = False
            if queued_access == node.last_access and self._is_evictable(node):
                return node
            self._enqueue(node)
        return None

    def _drop(self, leaf: Node) -> int:
        parent = leaf.parent
        assert parent is not None
        parent.abandon(leaf)
        self.allocator.release(leaf.pages)
        self.evictable_pages -= len(leaf.pages)
        self._enqueue(parent)
        return len(leaf.pages)

    def _node_problems(self, node: Node) -> Iterator[str]:
        if node.locks < max((child.locks for child in node.children.values()), default=0):
            yield f"a node is locked {node.locks} times, less often than one of its children"
        if node.order != sorted(node.children):
            yield "the sorted labels are not the children's"
        if len(node.key) != len(node.pages) * self._page_bytes:
            yield f"{len(node.key)} bytes of key for {len(node.pages)} pages"
        for label, child in node.children.items():
            if child.label != label or child.parent is not node or label[1] != child.key[: self._page_bytes]:
                yield "a child is filed under another label, or another parent"
            if not child.pages:
                yield "an edge without a page"
        if self._is_evictable(node) and not node.is_queued:
            yield "an unlocked leaf is not queued for eviction"

    def _page_problems(self, nodes: list[Node]) -> Iterator[str]:
        owners = Counter(page for node in nodes for page in node.pages)
        for page, count in owners.items():
            if count > 1:
                yield f"page {page} is owned {count} times"
            if not 0 < page <= self.allocator.total or self.allocator.is_free(page):
                yield f"page {page} is owned but is free, or not of the pool"

    def _counter_problems(self, nodes: list[Node]) -> Iterator[str]:
        locked = sum(len(node.pages) for node in nodes if node.locks)
        evictable = sum(len(node.pages) for node in nodes if not node.locks)
        if (locked, evictable) != (self.locked_pages, self.evictable_pages):
            yield (
                f"counted {self.locked_pages} locked and {self.evictable_pages} evictable pages,"
                f" there are {locked} and {evictable}"
            )
        if self.allocator.free + self.total_pages > self.allocator.total:
            yield f"{self.allocator.free} free and {self.total_pages} cached pages in a pool of {self.allocator.total}"


def _token_bytes(tokens: Tokens, limit: int | None) -> bytes:
    head = tokens if limit is None or limit >= len(tokens) else tokens[: max(limit, 0)]
    if isinstance(head, np.ndarray) and head.dtype == np.int32:
        return head.tobytes()
    return array("i", head).tobytes()


def _common_bytes(left: bytes, right: bytes) -> int:
    """The length of the longest common prefix; O(length), by halves so that the comparing is done in C."""
    low, high = 0, min(len(left), len(right))
    if left[:high] == right[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _upwards(node: Node) -> Iterator[Node]:
    """The node and all above it, the root last."""
    each: Node | None = node
    while each is not None:
        yield each
        each = each.parent


def _below(node: Node) -> Iterator[Node]:
    """All nodes below `node`."""
    waiting = list(node.children.values())
    while waiting:
        each = waiting.pop()
        yield each
        waiting.extend(each.children.values())
