"""The gallery's search index."""

import pytest
from pyspark.sql import SparkSession

from image_similarity.stages.gallery import search


def test_words_are_divided_into_shards_of_bounded_size(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SHARD_BYTES", 400)
    words = ["a", "ab", "abc", "b", "z" * 40, *(f"img{number:05d}" for number in range(300)), "\U0001f3a8", "images"]
    terms = spark.createDataFrame([(word, 1, [7]) for word in words], "term string, images long, ordinals array<int>")
    prefixes = search._prefixes(terms)
    named = terms.mapInArrow(
        search._with_prefix(prefixes), "term string, images long, ordinals array<int>, prefix string"
    ).collect()
    assert {row.prefix for row in named} == set(prefixes)
    shards: dict[str, list[str]] = {}
    for row in named:
        assert row.term.startswith(row.prefix)
        shards.setdefault(row.prefix, []).append(row.term)
    assert max(map(len, shards.values())) <= 400 // 8
    assert shards["b"] == ["b"] and sum(map(len, shards.values())) == len(words)
    for word in words:  # as gallery.js looks for it: every shard that can hold a word which begins so
        fitting = [prefix for prefix in prefixes if prefix.startswith(word[:4]) or word[:4].startswith(prefix)]
        assert word in {term for prefix in fitting for term in shards[prefix]}
