"""Review sentences that about 15 to 20 people each rated from -4 to +4.

Hutto and Gilbert 2014, VADER (ICWSM): sentences of film and of product reviews, in the source
archive of the vaderSentiment package, MIT licence. Being on PyPI they need no account.
"""

import io
import random
import re
import tarfile
from collections.abc import Sequence

from hydralign.data.pairs import in_pairs
from hydralign.data.pypi import fetch_archive
from hydralign.data.records import BadRow, Comparison, Demonstration, Prompt, ranks_from_ratings
from hydralign.data.report import RowReport
from hydralign.data.rows import Row, text_of
from hydralign.data.splits import SplitOf, Splits, stable_hash

_PROJECT, _VERSION = "vaderSentiment", "3.3.2"
_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
_FEWEST_WORDS = 4
_OPENING_WORDS = (2, 5)


def load_sentences(member: str = "movieReviewSnippets_GroundTruth.txt") -> list[Row]:
    """Read sentences with their mean ratings: rows of `text` and `rating`.

    Repeated sentences, and those of fewer than 4 words, are left out.

    Args:
        member: the file within the archive.

    Raises:
        UserError: if the archive is not in the cache and cannot be fetched.
    """
    rows: dict[str, Row] = {}
    for number, line in enumerate(_read_member(member).splitlines(), start=1):
        _, rating, text = line.split("\t", maxsplit=2)
        text = clean(text)
        if len(text.split()) >= _FEWEST_WORDS and text not in rows:
            rows[text] = Row(number, {"text": text, "rating": float(rating)})
    return list(rows.values())


def _read_member(member: str) -> str:
    archive = fetch_archive(_PROJECT, _VERSION, _SHA256).read_bytes()
    folder = f"{_PROJECT}-{_VERSION}/additional_resources"
    inner = _extract(archive, f"{folder}/hutto_ICWSM_2014.tar.gz")
    return _extract(inner, f"hutto_ICWSM_2014/{member}").decode("utf-8")


def _extract(packed: bytes, member: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        file = archive.extractfile(member)
        return file.read() if file else b""


def clean(text: str) -> str:
    """Make one space of each run of them (dashes were lost there), and a quote of each ''."""
    return re.sub(r"\s+", " ", text.replace("''", '"')).strip()


def demonstrations(
    rows: Sequence[Row], split_of: SplitOf, report: RowReport
) -> Splits[Demonstration]:
    """Let each sentence be continued from its opening words.

    A `RecordMapping`. The response begins with a space: prompt + response is the sentence.
    """
    return _by_sentence(rows, split_of).map(
        lambda _, part: [
            Demonstration(opening, text_of(row.values, "text")[len(opening) :], row=row.number)
            for row in part
            for opening in [opening_words(text_of(row.values, "text"))]
        ]
    )


def prompts(rows: Sequence[Row], split_of: SplitOf, report: RowReport) -> Splits[Prompt]:
    """Ask for a continuation of the opening words of each sentence. A `RecordMapping`."""
    return _by_sentence(rows, split_of).map(
        lambda _, part: [
            Prompt(opening_words(text_of(row.values, "text")), row=row.number) for row in part
        ]
    )


def comparisons(
    rows: Sequence[Row],
    split_of: SplitOf,
    report: RowReport,
    *,
    k: int = 16,
    rounds: int = 4,
    seed: int = 0,
    apart: bool = False,
) -> Splits[Comparison]:
    """Rank k whole sentences, drawn at random, by how well people rated them.

    A `RecordMapping`. All stand under the empty prompt.

    Args:
        rows: sentences.
        split_of: splits by sentence.
        report: takes the groups without any difference.
        k: responses in one comparison.
        rounds: how often the training sentences are dealt into groups anew; the others are dealt
            once.
        seed: of the dealing. Not the run's seed: runs that differ in theirs share the data.
        apart: whether each ranking is cut into pairs, to see what is lost by that.
    """

    def deal(name: str, part: list[Row]) -> list[Comparison]:
        groups = []
        for number in range(rounds if name == "train" else 1):
            shuffled = random.Random(f"{seed} {name} {number}").sample(part, len(part))
            # What is left over after the last whole group sits out this round.
            groups += [shuffled[i : i + k] for i in range(0, len(part) - k + 1, k)]
        rankings = [record for group in groups for record in _rank(group, report)]
        return [pair for r in rankings for pair in in_pairs(r)] if apart else rankings

    return _by_sentence(rows, split_of).map(deal)


def opening_words(sentence: str) -> str:
    """Return the first 2 to 5 words, at least one less than all; how many, a hash decides."""
    words = sentence.split(" ")
    fewest, most = _OPENING_WORDS
    choices = min(most, len(words) - 1) - fewest + 1
    return " ".join(words[: fewest + stable_hash(f"opening {sentence}") % choices])


def _by_sentence(rows: Sequence[Row], split_of: SplitOf) -> Splits[Row]:
    splits: Splits[Row] = Splits()
    for row in rows:
        splits[split_of(text_of(row.values, "text"))].append(row)
    return splits


def _rank(group: Sequence[Row], report: RowReport) -> list[Comparison]:
    texts = tuple(text_of(row.values, "text") for row in group)
    ratings = tuple(float(row.values["rating"]) for row in group)
    try:
        ranks = ranks_from_ratings(ratings)
        return [Comparison("", texts, ranks, ratings, row=group[0].number)]
    except BadRow as reason:
        report.bad(group[0].number, reason)
        return []
