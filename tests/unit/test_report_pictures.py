"""Pictures of reports are fetched as ``[http]`` of the settings says, as everywhere else."""

from functools import partial
from pathlib import Path

import misbehaving
from image_similarity import settings
from image_similarity.imaging import thumbnails
from image_similarity.stages.comparison import cards
from image_similarity.storage.budget import ByteBudget


def test_the_settings_decide_how_pictures_are_fetched(tmp_path: Path) -> None:
    with misbehaving.serving() as server:
        address = f"{server.address}/good.png"
        shrink = partial(thumbnails.thumbnails, max_pixels=10**6)
        budget = ByteBudget(2**20, 1)
        refused = cards._picture("a", address, settings.load(None), str(tmp_path), budget, shrink)
        assert refused == {"reason": "private_address"} and server.gets("/good.png") == 0
        allowed = settings.load(None, ["http.private_addresses=true"])
        card = cards._picture("a", address, allowed, str(tmp_path), budget, shrink)
    assert (
        "reason" not in card and (tmp_path / card["picture"]).is_file() and (card["width"], card["height"]) == (32, 24)
    )
