"""The words of the pages for what the tables name by a code: reasons of failures, metrics, and records of runs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from image_similarity.redaction import redacted
from image_similarity.settings import meanings
from image_similarity.warehouse.schemas import ALIKE, IDENTICAL, NEAR_DUPLICATES


@dataclass(frozen=True)
class Reason:
    """A reason of failures, for somebody who looks after the pictures."""

    happened: str
    """What is the matter with the file: a sentence without its full stop."""
    remedy: str
    """What can be done about it: a sentence."""
    in_folder: str = ""
    """The same where no list names the images; empty where that makes no difference."""

    def advice(self, from_list: bool) -> str:
        return self.remedy if from_list else self.in_folder or self.remedy


_AGAIN = "The next run tries again."
REASONS = {
    "not_found": Reason(
        "The file is not there", "Put it back, or take it out of the list.", "Put it back, or run the jobs again."
    ),
    "forbidden": Reason("The file may not be read", "Give the account that runs the jobs the right to read it."),
    "timeout": Reason("The server, store or drive did not answer in time", _AGAIN),
    "io_error": Reason("The file could not be read", f"{_AGAIN} If it stays so, look at the disk or the store."),
    "unsupported_scheme": Reason("The address is of an unknown kind", "Correct it in the list."),
    "too_many_bytes": Reason("The file is too large", "Put in a smaller copy, or raise the limit in the settings."),
    "incomplete": Reason("The connection broke before the whole file was there", _AGAIN),
    "rate_limited": Reason("The server asks to be left alone for a while", f"{_AGAIN} Leave more time between runs."),
    "server_error": Reason("The server had a fault of its own", _AGAIN),
    "http_error": Reason("The server refused to give the file", "Check the address in a browser."),
    "too_many_redirects": Reason("The address leads round in a circle", "Correct it in the list."),
    "private_address": Reason(
        "The address is not on the public internet", "Correct it, or allow such addresses in the settings."
    ),
    "empty": Reason("The file is empty", "Put in a whole copy."),
    "too_many_pixels": Reason(
        "The picture has too many pixels", "Put in a smaller copy, or raise the limit in the settings."
    ),
    "not_an_image": Reason(
        "The file is not a picture",
        "Put the picture in its place, or take it out of the list.",
        "Put the picture in its place, or remove the file.",
    ),
    "unsupported_format": Reason("The picture is of a kind that cannot be read here", "Save it as JPEG, PNG or TIFF."),
    "truncated": Reason("The file ends too early", "It was cut off when it was copied: put in a whole copy."),
    "corrupt": Reason("The file is damaged", "Put in a good copy."),
    "decoder_crashed": Reason(
        "The picture could not be opened within the limits of memory and time", "Save it anew, or put in another copy."
    ),
    "non_finite": Reason("The fingerprint has no usable answer for this picture", "Look at the picture: is it one?"),
    "no_vector": Reason("There is no vector for this picture", "Add it to your own vectors."),
    "wrong_length": Reason("The picture's vector is not as long as the others", "Correct your own vectors."),
    "too_long": Reason("The picture's vector has values that are too large", "Scale your own vectors down."),
    "zero_vector": Reason(
        "The fingerprint sees nothing in this picture", "Often it is of one colour. Another fingerprint may see more."
    ),
    "constant_vector": Reason(
        "The fingerprint sees the same everywhere in this picture",
        "Often it is of one colour. Another fingerprint may see more.",
    ),
    "changed": Reason("The file was replaced since it was compared", "Run the jobs again."),
}
"""reason -> its words. All reasons that a job writes are here, and ``changed``, which `pictures.make` adds."""


def reason(code: str | None) -> Reason:
    """The words for a reason, also for one of another version of this program."""
    code = code or "not_found"
    return REASONS.get(code) or Reason(code.replace("_", " ").capitalize(), "")


SCALES = {
    "cosine": "0 is the same, 1 unrelated",
    "correlation": "0 is the same, 1 unrelated, 2 the opposite",
    "euclidean": "0 is the same; there is no largest value, and other fingerprints have other numbers",
}
"""metric -> what its numbers mean, for the line above a list of neighbours."""

NUMBERS = {
    "cosine": (
        ("0", "Both vectors point the same way: the same picture, or one that the fingerprint cannot tell from it."),
        ("1", "Unrelated. Most fingerprints have no negative values, and reach no larger distance."),
        ("2", "Opposite: only fingerprints with negative values come near it."),
    ),
    "correlation": (
        ("0", "The values of the vectors rise and fall together: the same picture, or one with the same pattern."),
        ("1", "Unrelated: one vector says nothing about the other."),
        ("2", "Opposite: the one rises where the other falls."),
    ),
    "euclidean": (
        ("0", "The vectors are equal: the same picture, or one that the fingerprint cannot tell from it."),
        ("more", "There is no largest distance: the longer the vectors, the larger the numbers."),
    ),
}
"""metric -> what some of its numbers mean, in sentences, for the page about distances."""

KINDS = {
    IDENTICAL: "the same file",
    NEAR_DUPLICATES: "nearly the same",
    ALIKE: "belongs together",
}
"""Kind of groups -> its words."""

PAIRS = {
    "closest": "The closest two that are not equal. Is one a copy?",
    "near": "Nearest neighbours, nearer than nine in ten here.",
    "usual": "Nearest neighbours, as near as is usual here.",
    "far": "Nearest neighbours, farther than nine in ten here.",
    "farthest": "The farthest two.",
}
"""Kind of an example (`distances.PLACES`) -> its words, in their order on the page."""

_BRUTE_FORCE = (
    "vectors whose lists took a comparison with all others at full precision, as where many images are almost alike; "
    "the lists of all images are equally exact"
)
FACTS = {
    # of build_manifest
    "images": "images that this step worked on",
    "skipped": "files that were passed over, as no pictures by their names",
    # of embed_images
    "network": "what looks at the pictures, and which of its layers gives the vector",
    "weights": "the file of what the network has learnt",
    "not read again": "unchanged since an earlier run, so their vectors were used again",
    "resumed": "taken from an earlier run that was stopped before its end",
    "taken over": "taken from an earlier run that was stopped before its end",
    "read": "files that were opened in this run",
    "embedded": "turned into vectors in this run; copies of one file count once",
    "devices": "what computed the vectors: processor or GPU",
    "vectors added": "new vectors in the store",
    "measured": "images whose brightness, sharpness and so on are in the table of quality",
    "not measured": "images that were embedded before quality was measured",
    "flags": "images whose quality passes a limit of the settings, by flag",
    "classes added": "new pictures whose most probable classes are known from now on, for tags",
    "without classes": "images that have no classes to make tags of",
    "logits not finite": "of these, pictures whose classes the network could not compute",
    "failures": "what could not be used, by reason",
    "explained variance": "the share of the differences between vectors that is left after shortening them",
    # of find_neighbours
    "method": "exact compares every image with every other, approximate only with those that are probably near",
    "recall": "the share of the true nearest neighbours that the lists have, measured on a sample",
    "recall across borders": "the same, of neighbours that lie in another partition",
    "nlist": "partitions into which the vectors were divided",
    "parts": "partitions into which the vectors were divided",
    "nprobe": "partitions that were searched for each image",
    "visited": "partitions that were searched for each image",
    "rounds": "how often neighbours of neighbours were looked at",
    "vectors": "different vectors; copies of one file share theirs",
    "dimensions": "numbers in each vector",
    "brute force": _BRUTE_FORCE,
    "in full": _BRUTE_FORCE,
    "kept": "images whose lists of the run before are still right, and were only completed",
    "rows": "rows of the table of neighbours",
    # of group_images
    "limit": "how near near-duplicates are, as a share of the distances around them",
    "copies found": "images of the collection were edited for a test: how many of each kind the limit finds again",
    "components": "parts of the collection that near-duplicates connect",
    "components worked on": "of these, the parts that differ from the run before",
    "refuted by pictures": "pairs that are near by their vectors, but are not the same picture",
    "without pictures": "pairs that were judged by their vectors alone",
    "share proven": "the share of pairs in groups whose exact distance is known",
    "saturated": "images whose lists of neighbours hold nothing but near copies",
    "saturated skipped": "of these, those whose further copies were not looked for: too many for groups.process_bytes",
    "groups": "groups with at least two images",
    "images in groups": "images that are in one of these groups",
    "largest group": "images in the largest of these groups",
    "identical": "groups of files that are equal, byte for byte",
    "levels": "from the finest groups to the coarsest",
    # of tag_images
    "tagged": "images that have a tag",
    "untagged": "images of which the network is not sure enough to say anything",
    "without scores": "images of which it was not asked, or gave no usable answer",
    "different tags": "tags that are the most specific one of an image",
    "most frequent": "how many images these are the most specific tag of",
    "labelled": "images whose label is a class, or a parent of classes: tags were measured by them",
    "coverage": "the share of these images that have a tag",
    "precision": "of those that have a tag, the share whose first tag is right",
    "accuracy": "the share whose most probable class is right, however sure the network is",
    "calibration error": "how far probabilities are from the share that is right, on average",
    "not compared": "images whose label is neither a class nor a parent of classes",
    # of all
    "steps": "seconds that each step took",
    "finished": "when, and after how long",
    "run": "the name of this run in the tables",
}
"""Name of a fact on the page of the run -> a short explanation; older names, too."""

CALIBRATION = {
    "coverage": "coverage",
    "precision": "precision",
    "accuracy": "accuracy",
    "calibration error": "expected_calibration_error",
}
"""Name of a fact about tags that were compared with labels -> its name in the record."""

RECORDED = {
    # of build_manifest
    "images": "The folder, glob or list of the images.",
    "sample": "So many images were taken, by a hash; if not set, all.",
    "seed": "Seed of the sample.",
    # of embed_images
    "weights": "The file of what the network has learnt.",
    "trained": "Whether the network has learnt from pictures. An untrained one knows edges and colours only.",
    "fingerprint_key": "Hash of all that determines a vector. Runs with the same key have comparable vectors.",
    "base_key": "The fingerprint_key of the vectors that were projected.",
    # of find_neighbours
    "compared_sha256": "Checksum of the compared vectors. It shows whether a table is still theirs.",
    "lists": "Lengths of the exact lists that the next run may continue, and the version of their format.",
    "runner": "What did the work, the job's own process or Spark, and why.",
    "device": "What compared the vectors in the job's own process: the processor (cpu) or a GPU.",
    "screen": "The precision of the quick comparison that proposed candidates, and why.",
    # of group_images
    "limit": "How near near-duplicates are, and who chose that.",
    "calibration": "What the limit was chosen by: edited copies that it finds, and strangers that it keeps apart.",
    # of tag_images
    "classifier": "What gave the classes: hashes of what makes their logits and of their names, and how many they are.",
    "label": "The attribute that the tags were compared with, to measure how often they are right.",
    # of all
    "versions": "Programs and libraries that this run used.",
}
"""Name of a value in the record of a run, beside the sections of settings -> what it is."""

_NOT_SHOWN = ("description",)
"""The definition of a fingerprint with all defaults filled in: its settings say the same to people."""


def recorded(settings: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, value and explanation of each setting in the record of a run: single values first, then sections."""
    sections = {name: rows for name, value in settings.items() if (rows := meanings.explained(name, value))}
    for name, value in sorted(settings.items()):
        if name not in sections and name not in _NOT_SHOWN:
            yield name, _value(value), RECORDED.get(name, "")
    for rows in sections.values():
        for name, value, meaning in rows:
            yield name, _value(value), meaning


def _value(value: Any) -> str:
    """A value of a setting as it could be given, as text. Addresses are redacted before commas stand behind them."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_value, value)) or "none"
    return "not set" if value in (None, "") else str(value).lower() if isinstance(value, bool) else redacted(str(value))
