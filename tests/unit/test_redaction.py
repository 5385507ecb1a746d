"""What gives access stays out of all that is told: messages, records, pages."""

import json

import pytest

from image_similarity.pages import captions
from image_similarity.redaction import redacted, redacted_values
from image_similarity.reporting import Reporter

SECRET = "made-up-secret"
ADDRESSES = {
    f"https://museum.example/a.jpg?X-Amz-Signature={SECRET}&x=1": "https://museum.example/a.jpg?...",
    f"http://user:{SECRET}@museum.example/a b.jpg": "http://...@museum.example/a b.jpg",
    f"HTTPS://{SECRET}@museum.example:8080/ä.jpg?q={SECRET}#top": "HTTPS://...@museum.example:8080/ä.jpg?...#top",
    f"http://museum.example/a.jpg%3Fq={SECRET}": "http://museum.example/a.jpg%3F...",
    f"http://user:{SECRET}/+@museum.example/a.jpg": "http://user:...",
    f"hdfs://user:{SECRET}@host/what?.jpg": "hdfs://...@host/what?.jpg",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses(address: str) -> None:
    assert redacted(address) == ADDRESSES[address]
    assert redacted(f'not found: "{address}", in a list') == f'not found: "{ADDRESSES[address]}", in a list'
    assert redacted(redacted(f"({address}), {address}")) == redacted(f"({address}), {address}"), "once is enough"
    assert redacted_values({"weights": [address], "n": 3}) == {"weights": [ADDRESSES[address]], "n": 3}
    assert captions.link(address) is None and captions.clean(address) == " ".join(ADDRESSES[address].split())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain?text",
        "/a/what?.jpg",
        "s3://bucket/key?#1.jpg",
        "https://host/a.jpg",
        "a@b",
        "http://host:80/a.jpg",
        "http://host:80, http://host: no answer (http://[::1]:80)",
        "hdfs://name:8020/@a/b",
        "hdfs://name:8020: refused",
    ],
)
def test_everything_else_stays(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize("piece", ["http://", "http://%3", "a.", "a-", "a://b:1,", "@", ":", "1"])
def test_long_texts_of_strangers(piece: str) -> None:
    """Each is read once: a search that begins anew at each piece would not come to an end."""
    text = piece * 2**19
    assert redacted(text) == text
    assert redacted(f"{text} http://user:{SECRET}@host/?{SECRET}") == f"{text} http://...@host/?..."


@pytest.mark.parametrize("form", ["text", "json"])
def test_messages(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(form)
    for address in ADDRESSES:
        reporter.tell("error", f"cannot be read: {address}", failures={"not_found": {"example": address}})
        reporter.tell("summary", f'said "{address}" of ä\\', address=address)
    told = "".join(capsys.readouterr())
    assert SECRET not in told and told.count("museum.example") >= 6
    if form == "json":
        assert all(json.loads(line)["event"] for line in told.splitlines())
