"""Weights of one's own by flags alone: the fingerprint is declared, recorded, found again, and later jobs know it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from image_similarity.fingerprints import networks
from image_similarity.jobs import audit_neighbours, embed_images, find_neighbours, render_gallery, run_pipeline
from processes import ask, draw

IMAGES = 6
NETWORK = "squeezenet1_1"


@pytest.fixture
def common(tmp_path: Path) -> list[Any]:
    draw(tmp_path / "images", range(IMAGES))
    torch.save(networks.untrained_state(NETWORK, 1), tmp_path / "own.caffe.pth")
    return ["--images", tmp_path / "images", "--warehouse", tmp_path / "w"]


def recorded(warehouse: Path, name: str) -> dict[str, Any]:
    sql = f"SELECT settings FROM runs WHERE job = 'embed_images' AND slot = '{name}'"
    settings: dict[str, Any] = json.loads(ask(warehouse, sql)[0][0])
    return settings


def test_weights_of_a_network(run: Any, tmp_path: Path, common: list[Any], capsys: Any) -> None:
    own = ["--network", NETWORK, "--weights", tmp_path / "own.caffe.pth", "--preprocessing", "caffe"]
    name, later = "squeezenet1-1-own-caffe", common[2:]
    assert run(run_pipeline, *common, *own, "-k", 2) == 0
    out = capsys.readouterr().out
    assert f"as {name}: {NETWORK} features.12.cat, weights {tmp_path}/own.caffe.pth" in out
    assert f"nearest others ({name}/cosine distances)" in out and "caffe in its name" not in out
    settings = recorded(tmp_path / "w", name)
    declared = settings["fingerprint"][name]
    assert (declared["network"], declared["layer"], declared["pooling"]) == (NETWORK, "features.12.cat", "average")
    assert declared["preprocessing"] == "caffe" and settings["description"]["normalisation"]["bgr"]
    assert ask(tmp_path / "w", "SELECT DISTINCT fingerprint, len(embedding) FROM embeddings") == [(name, 512)]

    assert run(embed_images, *later, *own) == 0, "the same flags: the same fingerprint"
    assert f"0 embedded, {IMAGES} unchanged" in capsys.readouterr().out
    assert run(find_neighbours, *later, "--fingerprint", name, "--metric", "euclidean", "-k", 2) == 0
    assert run(find_neighbours, *later, "--fingerprint", "vgg16-fc2") == 2
    assert f"(published: {name}): name one by --fingerprint, or run embed" in capsys.readouterr().err
    assert run(find_neighbours, *later, "-k", 2) == 0, "the only one"
    assert f"fingerprint {name}: no other is published" in capsys.readouterr().out
    assert run(audit_neighbours, *later, "--fingerprint", name, "--metric", "euclidean") == 0
    assert run(render_gallery, *later, "--gallery", tmp_path / "g", "--fingerprint", name) == 0
    assert run(embed_images, *later, "--fingerprint", name) == 2
    assert "--network squeezenet1_1 --weights" in capsys.readouterr().err
    assert run(embed_images, *later, *own[:4]) == 2, "prepared in another way"
    assert "preprocessing was caffe, is torchvision now. To go on with them, give --preprocessing caffe" in (
        capsys.readouterr().err
    )

    torch.save(networks.untrained_state(NETWORK, 2), tmp_path / "own.caffe.pth")
    before = (tmp_path / "w" / "_current.json").read_bytes()
    assert run(run_pipeline, *common, *own) == 2, "the file has another content"
    told = capsys.readouterr().err
    assert len(told.strip().splitlines()) == 1 and told.count("own.caffe.pth (sha256 ") == 2, told
    assert (tmp_path / "w" / "_current.json").read_bytes() == before, "no manifest is published before"
    assert run(embed_images, *later, *own) == 2 and "weights were " in capsys.readouterr().err


class Means(torch.nn.Module):
    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(pictures, 12).flatten(1)


def test_a_program(run: Any, tmp_path: Path, common: list[Any], capsys: Any) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    example = (torch.zeros(2, 3, 48, 48),)
    program = torch.export.export(Means().eval(), example, dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "means.pt2")
    assert run(run_pipeline, *common, "--weights", tmp_path / "means.pt2", "-k", 2) == 0
    assert "prepared with ImageNet's mean and std" in capsys.readouterr().out
    declared = recorded(tmp_path / "w", "means")["fingerprint"]["means"]
    assert (declared["kind"], declared["input_size"]) == ("exported", 48)
    assert run(embed_images, *common[2:], "--weights", tmp_path / "mean.pt2") == 2
    assert f"no such file: {tmp_path}/mean.pt2; did you mean means.pt2?" in capsys.readouterr().err
