"""The subcommands of ``image-similarity``, by what people do, each with one line. Nothing of them is imported."""

NAME = "image-similarity"
SEARCH, SERVE = "search", "serve"

GROUPS: dict[str, dict[str, str]] = {
    "to ask a collection": {
        SEARCH: "which images look like this picture? Answered here, without Spark",
        SERVE: "the same in the browser: drop a picture on a page of this machine",
        "search-images": "the same for a folder or a list of pictures; publishes the answers",
        "compare-fingerprints": "says which network finds best what belongs together",
        "audit-neighbours": "measures how many true neighbours a published table has",
    },
    "to make one": {
        "run-pipeline": "from a folder of images to tables and a gallery, in one go",
        "download-images": "fetches the pictures of a catalogue of addresses",
        "build-manifest": "lists the images of a folder, a glob or a list",
        "embed-images": "turns images into vectors",
        "tag-images": "says what is in each image, where it is sure enough",
        "find-neighbours": "finds the most similar and the most dissimilar images of each",
        "group-images": "groups what is the same picture again, or belongs together",
        "render-gallery": "makes the pages",
        "render-map": "hangs all images on one wall, similar beside similar",
    },
    "to look after it": {
        "clean-warehouse": "removes older runs and what dead ones left",
        "restore-runs": "makes an earlier run current again",
    },
}
"""Heading -> subcommand -> what it does."""

COMMANDS = tuple(name for commands in GROUPS.values() for name in commands)
JOBS = tuple(name for name in COMMANDS if name not in (SEARCH, SERVE))


def module_of(job: str) -> str:
    """The module of `image_similarity.jobs` behind the subcommand ``job``: ``find_neighbours`` of find-neighbours."""
    return job.replace("-", "_")


def command_of(word: str) -> str:
    """The subcommand that ``word`` may mean: the name of a job or of its file, with any path, is that of its command.

    Whether there is such a subcommand is another question.
    """
    return word.rpartition("/")[2].removesuffix(".py").replace("_", "-").lower()
