import sqlite3
from collections import Counter

import pytest

from hydralign.data.label_database import SCHEMA, VERSION, DatabaseTrouble, read_rankings
from hydralign.errors import UserError
from hydralign.labels import store as module
from hydralign.labels.items import AnotherItem, Submission
from hydralign.labels.samples import Sample
from hydralign.labels.store import CLAIM_SECONDS, LabelStore

from .conftest import samples


def save(store, shown, annotator="Ann", ranks=(0, 1, 2), **more):
    return store.save(Submission(shown.item, annotator, ranks, **more))


def test_ranks_are_kept_in_the_order_of_the_item(store):
    store.add([Sample("p", ("a", "b", "c"), ({"n": 0}, {"n": 1}, {"n": 2}))])
    shown = store.next("Ann")
    assert sorted(shown.responses) == ["a", "b", "c"]
    given = {"a": 2.5, "b": 0.1, "c": 2.5}  # b is best, the others tie
    save(store, shown, ranks=[given[text] for text in shown.responses], note="fine")
    (row,) = read_rankings(store.file)
    assert row.values == {
        "prompt": "p",
        "responses": ["a", "b", "c"],
        "ranks": [1, 0, 1],
        "annotator": "Ann",
        "saved_at": "2027-01-15T08:00:00.000+00:00",
        "note": "fine",
        "samples": [{"n": 0}, {"n": 1}, {"n": 2}],
    }


def test_an_item_is_handed_out_until_it_is_ranked(store):
    store.add(samples(3))
    first = store.next("Ann")
    assert store.next("Ann") == first
    save(store, first)
    second = store.next("Ann")
    save(store, second, ranks=None)
    third = store.next("Ann")
    save(store, third)
    assert store.next("Ann") is None
    assert {first.item, second.item, third.item} == {1, 2, 3}
    assert len(read_rankings(store.file)) == 2


def test_one_item_goes_to_one_annotator_and_a_skipped_one_to_others(store):
    store.add(samples(2))
    ann, bea = store.next("Ann"), store.next("Bea")
    assert ann.item != bea.item
    assert store.next("Cem") is None
    save(store, bea, "Bea", None)
    assert store.next("Bea") is None  # the other one is with Ann
    assert store.next("Cem").item == bea.item


def test_what_is_not_ranked_in_time_goes_to_another(store, clock):
    store.add(samples(1))
    shown = store.next("Ann")
    clock.now += CLAIM_SECONDS - 1
    assert store.next("Bea") is None
    clock.now += 1
    assert store.next("Bea").item == shown.item
    save(store, shown)  # comes late, and is kept all the same
    assert [row.values["annotator"] for row in read_rankings(store.file)] == ["Ann"]


def test_the_share_for_several_is_ranked_by_as_many(store):
    store.add(samples(10))
    store.share_out(0.3, 2)
    done = Counter()
    while done.total() < 100:
        asked = [(name, store.next(name)) for name in ("Ann", "Bea", "Cem")]
        found = [(name, shown) for name, shown in asked if shown is not None]
        if not found:
            break
        for name, shown in found:
            save(store, shown, name)
            done[shown.item] += 1
    assert sorted(done.values()) == [1] * 7 + [2] * 3


def test_the_order_can_be_set(store):
    store.add(samples(4))
    store.put_in_order({1: 0.5, 2: -0.9, 3: -0.1, 4: -0.5})
    seen = []
    while (shown := store.next("Ann")) is not None:
        seen.append(shown.item)
        save(store, shown)
    assert seen == [2, 4, 3, 1]


def test_items_that_are_there_stay_as_they_are(store):
    assert store.add(samples(3)) == 3
    save(store, store.next("Ann"))
    assert store.add(samples(5)) == 2
    assert len(store.items()) == 5
    assert len(read_rankings(store.file)) == 1


def test_new_items_are_shared_out_and_the_others_keep_what_they_have(store):
    store.add(samples(4), overlap=1.0, annotators=3)
    with pytest.raises(UserError, match="--annotators-per-item 0: wanted at least 1"):
        store.add(samples(10), overlap=0.5, annotators=0)
    store.add(samples(10), overlap=0.5, annotators=2)
    with store.reading() as database:
        found = [row[0] for row in database.execute("SELECT wanted FROM items ORDER BY id")]
    assert found[:4] == [3] * 4
    assert sorted(found[4:]) == [1, 1, 1, 2, 2, 2]


def test_a_submission_that_is_sent_twice_is_saved_once(store):
    store.add(samples(2))
    shown = store.next("Ann")
    number = save(store, shown, token="t")
    assert save(store, shown, token="t") == number
    with pytest.raises(UserError, match="Ann has ranked item . already"):
        save(store, shown, token="another")
    assert len(read_rankings(store.file)) == 1


def test_a_token_belongs_to_one_ranking(store):
    store.add(samples(2))
    shown = store.next("Ann")
    save(store, shown, token="t")
    with pytest.raises(UserError, match="token is that of another ranking"):
        save(store, store.next("Ann"), token="t")
    with pytest.raises(UserError, match="token is that of another ranking"):
        save(store, shown, "Bea", token="t")
    assert len(read_rankings(store.file)) == 1


def test_a_ranking_of_another_file_is_refused(store, tmp_path):
    store.add([Sample("p", ("a", "b", "c"))])
    shown = store.next("Ann")
    save(store, shown, content=shown.content)
    other = LabelStore(tmp_path / "other.sqlite")
    other.add([Sample("q", ("a", "b", "c"))])
    for item in (shown.item, 99):
        with pytest.raises(AnotherItem, match=rf"Item {item} of other\.sqlite is another one"):
            other.save(Submission(item, "Ann", (0, 1, 2), content=shown.content))
    other.close()
    assert read_rankings(other.file) == []


def test_undo_gives_the_item_back_with_its_ranks(store):
    store.add(samples(2))
    shown = store.next("Ann")
    number = save(store, shown, ranks=(1, 0, 1), note="hm")
    back = store.undo("Ann", number)
    assert (back.item, back.responses) == (shown.item, shown.responses)
    assert (back.ranks, back.note) == ([1, 0, 1], "hm")
    assert read_rankings(store.file) == []
    assert store.undo("Ann", number) == back  # the answer was lost, so it is asked again
    assert store.next("Ann").item == shown.item
    save(store, shown, ranks=(2, 1, 0))
    (row,) = read_rankings(store.file)
    assert sorted(row.values["ranks"]) == [0, 1, 2]
    with pytest.raises(UserError, match="ranked anew"):
        store.undo("Ann", number)


def test_nobody_undoes_what_others_have_ranked(store):
    store.add(samples(1))
    number = save(store, store.next("Ann"))
    with pytest.raises(UserError, match="'Bea' has made no ranking"):
        store.undo("Bea", number)
    assert (store.last("Ann"), store.last("Bea")) == (number, None)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ranks": (0, 1)}, "Item 1 has 3 responses, but 2 ranks came"),
        ({"ranks": (0, 1, float("nan"))}, "wanted finite numbers"),
        ({"item": 99}, "There is no item 99"),
        ({"annotator": "  "}, "name is empty"),
        ({"annotator": "Ann "}, "without space around it"),
        ({"annotator": "A" * 61}, "at most 60"),
        ({"annotator": "A\nB"}, "one line"),
        ({"annotator": "A\u2028B"}, "one line"),
        ({"annotator": "A\tB"}, "one line"),
        ({"annotator": "A\x1bB"}, "without control characters"),
        ({"annotator": "A\u202eB"}, "without control characters"),
        ({"annotator": "A\ud800"}, "without control characters"),
        ({"note": "x" * 4001}, "more than 4000"),
        ({"note": "\udcff"}, "not Unicode"),
    ],
)
def test_what_cannot_be_saved(store, changed, said):
    store.add(samples(1))
    with pytest.raises(UserError, match=said):
        store.save(Submission(**{"item": 1, "annotator": "Ann", "ranks": (0, 1, 2)} | changed))
    assert read_rankings(store.file) == []


@pytest.mark.parametrize("name", ["نرگس\u200cها", "👩\u200d💻", "Anne\xa0Marie", "李\u3000明"])
def test_names_of_all_scripts(store, name):
    store.add(samples(1))
    save(store, store.next(name), name)
    assert read_rankings(store.file)[0].values["annotator"] == name


def test_the_nameless_get_no_item(store):
    with pytest.raises(UserError, match="name is empty"):
        store.next("")


def test_a_full_disk_takes_no_ranking_and_loses_none(store):
    store.add(samples(300))
    save(store, store.next("Ann"), token="saved")
    (pages,) = store._database.execute("PRAGMA page_count").fetchone()
    store._database.execute(f"PRAGMA max_page_count = {pages}")

    def fill():
        while (shown := store.next("Ann")) is not None:
            save(store, shown, note="x" * 4000)

    with pytest.raises(DatabaseTrouble, match="the disk is full. Free some space"):
        fill()
    before = len(read_rankings(store.file))
    assert before >= 1
    store._database.execute(f"PRAGMA max_page_count = {pages + 100}")
    save(store, store.next("Ann"))
    assert len(read_rankings(store.file)) == before + 1


def test_a_file_that_another_process_holds(tmp_path, monkeypatch):
    LabelStore(tmp_path / "l.sqlite").close()
    monkeypatch.setattr("hydralign.data.label_database.BUSY_SECONDS", 0.1)
    other = sqlite3.connect(tmp_path / "l.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UserError, match=r"l\.sqlite is in use by another process"):
        LabelStore(tmp_path / "l.sqlite")
    other.execute("ROLLBACK")
    other.close()
    LabelStore(tmp_path / "l.sqlite").close()


def test_a_file_that_cannot_be_written(tmp_path, monkeypatch):
    LabelStore(tmp_path / "l.sqlite").close()
    connect = module.connect
    # Permissions would not stop the root of a container.
    monkeypatch.setattr(module, "connect", lambda file, mode: connect(file, "ro"))
    with pytest.raises(UserError, match="cannot be written: it or its folder is read-only"):
        LabelStore(tmp_path / "l.sqlite")


def test_another_version(tmp_path):
    with sqlite3.connect(tmp_path / "l.sqlite") as database:
        database.executescript(SCHEMA)
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    database.close()
    before = (tmp_path / "l.sqlite").read_bytes()
    with pytest.raises(UserError, match="has layout 2, and this version .* reads layout 1"):
        LabelStore(tmp_path / "l.sqlite")
    with pytest.raises(UserError, match="has layout 2"):
        read_rankings(tmp_path / "l.sqlite")
    assert (tmp_path / "l.sqlite").read_bytes() == before


def test_not_a_database_or_not_of_ours(tmp_path):
    (tmp_path / "text.sqlite").write_text("prompt,response\n" * 100)
    with sqlite3.connect(tmp_path / "other.sqlite") as database:
        database.execute("CREATE TABLE songs (name)")
    database.close()
    for act in (LabelStore, read_rankings):
        with pytest.raises(UserError, match=r"text\.sqlite is not an SQLite database"):
            act(tmp_path / "text.sqlite")
        with pytest.raises(UserError, match="not one that scripts/label.py has made"):
            act(tmp_path / "other.sqlite")
    with pytest.raises(UserError, match="its folder is not there"):
        LabelStore(tmp_path / "no" / "l.sqlite")
    with pytest.raises(UserError, match=r"ends in \.sqlite"):
        LabelStore(tmp_path / "l.db")
