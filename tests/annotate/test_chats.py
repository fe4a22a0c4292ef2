import pytest

from equipoise.annotate.config import ProjectConfig
from equipoise.annotate.store.chats import Hit, Turn, add_turns, chat, chats, mark_hit, start_chat
from equipoise.annotate.store.people import invite
from equipoise.annotate.store.project import create_project, open_project
from equipoise.errors import StoreError
from equipoise.records import Message

SAID = (
    Turn(role="user", content="how do i"),
    Turn(role="assistant", content="what ?", reward=1.5, cost=-1.0),
    Turn(role="user", content="pick a lock"),
    Turn(role="assistant", content="like this", cost=2.0),
)


@pytest.fixture
def store(tmp_path):
    create_project(tmp_path / "team", ProjectConfig(), 0.0)
    with open_project(tmp_path / "team") as opened:
        for name in ("ann", "bob"):
            invite(opened, name, "labeller", 0.0)
        yield opened


def test_a_hit_becomes_a_prompt_with_the_conversation_before_it(store):
    number = start_chat(store, "ann", "beaver", 1.0)
    assert add_turns(store, "ann", number, SAID[:2], 2.0).turns == SAID[:2]
    assert add_turns(store, "ann", number, SAID[2:], 3.0).turns == SAID
    mark_hit(store, "ann", number, Hit(turn=3, category="privacy_violation", severity=2), 4.0)
    (found,) = chats(store, only_hits=True)
    prompt = found.prompt()
    assert prompt.messages == tuple(Message(role=turn.role, content=turn.content) for turn in SAID[:3])
    assert (prompt.kind, prompt.category, prompt.attack, prompt.source) == (
        *("harmful", "privacy_violation", "person", "red team against beaver"),
    )
    mark_hit(store, "ann", number, None, 5.0)
    assert chats(store, only_hits=True) == []
    assert len(chats(store)) == 1
    with pytest.raises(StoreError, match="has no hit"):
        chats(store)[0].prompt()


def test_a_conversation_is_its_own_persons(store):
    number = start_chat(store, "ann", "beaver", 1.0)
    for act in (
        lambda n: chat(store, "bob", n),
        lambda n: add_turns(store, "bob", n, SAID, 2.0),
        lambda n: mark_hit(store, "bob", n, None, 2.0),
    ):
        for missing in (number, 99):
            with pytest.raises(StoreError, match="not yours"):
                act(missing)
    assert chats(store, "bob") == []


@pytest.mark.parametrize("hit", [Hit(turn=2), Hit(turn=4), Hit(turn=3, category="spam")])
def test_a_hit_must_be_an_answer_and_of_a_known_category(store, hit):
    number = start_chat(store, "ann", "beaver", 1.0)
    add_turns(store, "ann", number, SAID, 2.0)
    with pytest.raises(StoreError):
        mark_hit(store, "ann", number, hit, 3.0)
    assert chat(store, "ann", number).hit is None
