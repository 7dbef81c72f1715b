import hashlib
import io
import tarfile

import pytest

from hydralign.data import movie_reviews
from hydralign.data.report import RowReport
from hydralign.data.rows import Row
from hydralign.data.splits import HashSplitter

LINES = (
    "1\t2.5\tA  film   that is ''good'', truly.\r\n"
    "2\t-1\tToo short here\r\n"
    "3\t-3.5\tA  clich\u00e9   that drags on and on.\r\n"
    "4\t0.25\tA film that is ''good'', truly.\r\n"
)


def tar(members):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture
def archive(tmp_path, monkeypatch):
    inner = tar({"hutto_ICWSM_2014/lines.txt": LINES.encode()})
    outer = tar({"vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz": inner})
    (tmp_path / "vaderSentiment-3.3.2.tar.gz").write_bytes(outer)
    monkeypatch.setenv("HYDRALIGN_CACHE", str(tmp_path))
    monkeypatch.setattr(movie_reviews, "_SHA256", hashlib.sha256(outer).hexdigest())
    return tmp_path


def test_sentences_are_cleaned_and_repeated_or_short_ones_left_out(archive):
    assert movie_reviews.load_sentences("lines.txt") == [
        Row(1, {"text": 'A film that is "good", truly.', "rating": 2.5}),
        Row(3, {"text": "A cliché that drags on and on.", "rating": -3.5}),
    ]
    # Nothing is unpacked beside the archive.
    assert [file.name for file in archive.iterdir()] == ["vaderSentiment-3.3.2.tar.gz"]


def sentences(n):
    return [
        Row(i, {"text": f"sentence {i} is one of {n} of them", "rating": i / 10})
        for i in range(1, n + 1)
    ]


SPLIT_OF = HashSplitter({"train": 0.5, "validation": 0.25, "test": 0.25})


def test_prompt_and_response_are_the_sentence_again():
    rows = sentences(60)
    splits = movie_reviews.demonstrations(rows, SPLIT_OF, RowReport("x"))
    records = [record for _, part in splits.items() for record in part]
    assert {record.prompt + record.response for record in records} == {
        row.values["text"] for row in rows
    }
    assert all(record.response.startswith(" ") for record in records)
    assert {len(record.prompt.split()) for record in records} == {2, 3, 4, 5}


def test_the_shortest_sentences_keep_a_word_to_say():
    counts = {len(movie_reviews.opening_words(f"w{i} x y z").split()) for i in range(40)}
    assert counts == {2, 3}


def test_prompts_are_the_openings_of_the_same_demonstrations():
    rows = sentences(40)
    demonstrations = movie_reviews.demonstrations(rows, SPLIT_OF, RowReport("x"))
    prompts = movie_reviews.prompts(rows, SPLIT_OF, RowReport("x"))
    for name, part in prompts.items():
        assert [record.prompt for record in part] == [r.prompt for r in demonstrations[name]]
        assert [record.row for record in part] == [r.row for r in demonstrations[name]]


def test_comparisons_deal_each_split_into_groups():
    rows = sentences(70)
    ratings = {row.values["text"]: row.values["rating"] for row in rows}
    split = {text: SPLIT_OF(text) for text in ratings}
    splits = movie_reviews.comparisons(rows, SPLIT_OF, RowReport("x"), k=3, rounds=4)
    for name, part in splits.items():
        size = sum(where == name for where in split.values())
        rounds = 4 if name == "train" else 1
        assert len(part) == rounds * (size // 3)
        for start in range(0, len(part), size // 3):
            drawn = [
                text for record in part[start : start + size // 3] for text in record.responses
            ]
            assert len(set(drawn)) == len(drawn)  # no sentence twice in one round
        for record in part:
            assert record.prompt == ""
            assert {split[text] for text in record.responses} == {name}
            assert record.ratings == tuple(ratings[text] for text in record.responses)
            best = max(range(3), key=lambda i: record.ratings[i])
            assert (record.ranks[best], sorted(record.ranks)) == (0, [0, 1, 2])


def test_dealing_depends_on_the_seed_alone():
    def deal(seed):
        return movie_reviews.comparisons(
            sentences(50), SPLIT_OF, RowReport("x"), k=2, rounds=2, seed=seed
        )

    assert deal(0) == deal(0)
    assert deal(0).test != deal(1).test
    half = len(deal(0).train) // 2
    assert deal(0).train[:half] != deal(0).train[half:]  # each round deals anew


def test_a_group_of_equal_ratings_is_reported():
    rows = [Row(i, {"text": f"all alike number {i}", "rating": 1.0}) for i in (4, 5)]
    report = RowReport("x")
    splits = movie_reviews.comparisons(rows, HashSplitter({"train": 1.0}), report, k=2, rounds=1)
    assert splits.train == []
    assert [reason for _, reason in report.bad_rows] == ["only ties"]
