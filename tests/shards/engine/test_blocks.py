"""Pages are conserved: each is free, held or cached, whatever is done; and what is cached is what it says."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shards.engine.blocks import BlockManager, chain_keys, chain_root


def chain(root: str, text: str) -> list[bytes]:
    return chain_keys(chain_root(root), (letter.encode() for letter in text))


def test_a_chain_of_keys_names_everything_before_it() -> None:
    assert chain("a", "xyz")[:2] == chain("a", "xy")
    assert len({*chain("a", "xyz"), *chain("b", "xyz"), *chain("a", "yyz")}) == 9
    assert chain_root("a", "bc") != chain_root("ab", "c")


def test_cached_pages_are_found_under_their_root_only_and_as_far_as_they_go() -> None:
    manager = BlockManager(8)
    pages = manager.take(3)
    assert pages is not None
    for page, key in zip(pages, chain("alice", "abc"), strict=True):
        manager.publish(page, key)
    assert manager.find(chain("alice", "abd")) == 2
    assert manager.find(chain("bob", "abc")) == 0
    manager.give(pages)
    assert manager.share(chain("alice", "ab")) == pages[:2]
    assert manager.available == 6


def test_the_longest_unused_goes_first_and_of_a_chain_its_end() -> None:
    manager = BlockManager(6)
    for text in ("ab", "xy"):
        pages = manager.take(2)
        assert pages is not None
        for page, key in zip(pages, chain("root", text), strict=True):
            manager.publish(page, key)
        manager.give(pages)
    manager.give(manager.share(chain("root", "ab")))
    assert manager.take(3) is not None
    assert [manager.find(chain("root", text)) for text in ("ab", "xy")] == [2, 1]


def test_a_page_that_changes_is_found_no_more_unless_others_have_it() -> None:
    manager = BlockManager(2)
    pages = manager.take(1)
    assert pages is not None
    (key,) = chain("root", "a")
    manager.publish(pages[0], key)
    manager.share([key])
    assert not manager.retract(pages[0])
    manager.give(pages)
    assert manager.retract(pages[0])
    assert manager.find([key]) == 0


@given(st.integers(0, 5), st.integers(0, 8))
def test_pages_are_taken_whole_or_not_at_all(pages: int, count: int) -> None:
    manager = BlockManager(pages)
    taken = manager.take(count)
    assert (taken is not None) == (count <= pages)
    assert manager.available == pages - len(taken or ())


@dataclass
class Held:
    """A session's pages: the first `published` of them have the keys of `text`."""

    root: str
    text: str
    pages: list[int] = field(default_factory=list)
    published: int = 0


class Blocks(RuleBasedStateMachine):
    """Sessions of two owners come and go; what each page holds is followed from outside."""

    @initialize(pages=st.integers(1, 12))
    def begin(self, pages: int) -> None:
        self.manager = BlockManager(pages)
        self.sessions: list[Held] = []
        self.content: dict[int, bytes] = {}
        """What was written into each page, by the key of it."""

    @rule(root=st.sampled_from("AB"), text=st.text("xy", min_size=1, max_size=5))
    def open(self, root: str, text: str) -> None:
        keys = chain(root, text)
        hits = self.manager.find(keys)
        shared = self.manager.share(keys[:hits])
        for page, key in zip(shared, keys, strict=False):
            assert self.content[page] == key, "a cached page holds what its key says, of its own root"
        before = self.manager.available
        more = self.manager.take(len(text) - hits)
        if more is None:
            assert len(text) - hits > before
            self.manager.give(shared)
            return
        for page, key in zip(more, keys[hits:], strict=True):
            assert not any(page in other.pages for other in self.sessions), "nobody else has a page to be written"
            self.content[page] = key
        self.sessions.append(Held(root, text, shared + more, hits))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.sessions))
        keys = chain(held.root, held.text)
        for number in range(held.published, len(keys)):
            self.manager.publish(held.pages[number], keys[number])
        held.published = len(keys)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def change_the_last(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.sessions))
        last = held.pages[-1]
        others = any(last in other.pages for other in self.sessions if other is not held)
        if held.published < len(held.pages):
            assert not others
        if self.manager.retract(last):
            assert not others
            self.content[last] = b"changed"
            held.text = held.text[:-1]
            self.manager.give(held.pages[-1:])
            held.pages.pop()
            held.published = min(held.published, len(held.pages))
            if not held.pages:
                self.sessions.remove(held)
        else:
            assert others

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.sessions))
        self.sessions.remove(held)
        self.manager.give(held.pages)

    @invariant()
    def pages_are_conserved(self) -> None:
        manager = self.manager
        held = {page for session in self.sessions for page in session.pages}
        assert manager.held == len(held)
        assert manager.available == manager.pages - len(held) >= 0
        counts = {page: sum(page in session.pages for session in self.sessions) for page in held}
        assert manager._holders == counts
        free = {*manager._free, *range(manager._fresh, manager.pages)}
        idle = set(manager._idle)
        assert not (free & held or idle & held or free & idle), "no page is two things"
        assert len(free) + len(idle) + len(held) == manager.pages
        assert set(manager._by_key.values()) == set(manager._keys) and len(manager._by_key) == len(manager._keys)
        assert set(manager._keys) <= idle | held and idle <= set(manager._keys)


TestBlocks = Blocks.TestCase
TestBlocks.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
