"""What embeds a query: the device, the limits, and what happens where the decoding process cannot start."""

from typing import Any

import pytest

from image_similarity.collection import encoder
from image_similarity.errors import JobFailed
from image_similarity.runtime import devices
from image_similarity.settings import EmbeddingsSettings
from image_similarity.stages.embeddings import published


def test_a_gpu_embeds_where_one_has_embedded_the_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def of_process(requested: str) -> str:
        asked.append(requested)
        return "cuda:0"

    monkeypatch.setattr(devices, "of_process", of_process)
    assert [encoder.device_for(used) for used in ([], ["cpu"])] == ["cpu", "cpu"] and not asked, "torch is not asked"
    assert encoder.device_for(["NVIDIA H100", "cpu"]) == "cuda:0"


def test_a_gpu_that_cannot_be_used_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_process(_: str) -> str:
        raise JobFailed("in use")

    monkeypatch.setattr(devices, "of_process", of_process)
    assert encoder.device_for(["NVIDIA H100"]) == "cpu"


@pytest.mark.parametrize("recorded", [{"max_bytes": 7, "later": 1}, {"max_bytes": "many"}, None, {}])
def test_the_limits_are_those_of_the_collection(recorded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Record:
        settings = {"embeddings": recorded}

    class Origin:
        record = Record

    monkeypatch.setattr(published, "from_images", lambda *_: Origin)
    expected = 7 if recorded and recorded["max_bytes"] == 7 else EmbeddingsSettings().max_bytes
    snapshot: Any = None
    assert encoder.settings_of(snapshot, "tiny").max_bytes == expected


def test_a_process_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Decoders:
        def framed(self, *_: Any) -> Any:
            raise RuntimeError("no process to decode images in: it ended")

    monkeypatch.setattr(encoder, "decoders", lambda _: Decoders())
    made = object.__new__(encoder.Encoder)
    made.settings = EmbeddingsSettings()
    made._origin = type("Origin", (), {"framing": None})  # type: ignore[assignment]
    with pytest.raises(JobFailed, match="no process to decode"):
        made._framed(b"x")
