"""The accepted tag of each image, for answers of searches."""

import pyarrow as pa
import pyarrow.compute as pc

from image_similarity.warehouse import current_tags
from image_similarity.warehouse.defaults import tags_by
from image_similarity.warehouse.snapshot import Snapshot


def tags_of(snapshot: Snapshot, fingerprint: str, ids: pa.LargeStringArray) -> pa.DictionaryArray | None:
    """The tag of each of ``ids``, null where none is accepted: 4 bytes an image. None where no tags are published.

    The tags are those by ``fingerprint``, or by the first that has some. *The* tag is the row of rank 1. An image whose
    file was replaced since has none.
    """
    slot = tags_by(snapshot.slots("tags"), fingerprint)
    if slot is None:
        return None
    is_tag = (pc.field("rank") == 1) & pc.field("accepted")
    rows, _ = current_tags.split(snapshot, slot, ["image_id", "class"], is_tag)
    rows = rows.combine_chunks()
    names = pa.concat_arrays([pa.array([], pa.large_string()), *rows["image_id"].cast(pa.large_string()).chunks])
    classes = pa.concat_arrays([pa.array([], pa.string()), *rows["class"].chunks]).dictionary_encode()
    return classes.take(pc.index_in(ids.cast(pa.large_string()), value_set=names))
