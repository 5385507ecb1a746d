"""vectors, or classes that were kept -> tags: what is in each image, in the words of the network's classifier, where it
is sure enough.
"""

# What computes is imported where it is used: help, and what is wrong in the arguments, should not wait for it.

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from image_similarity.errors import WrongInput, counted, listed
from image_similarity.jobs import command_line, early, published_classifiers
from image_similarity.jobs.command_line import setting
from image_similarity.jobs.job import Application, Job
from image_similarity.jobs.published_classifiers import NoTags, Prepared
from image_similarity.reporting import brief, note, printable
from image_similarity.settings import Settings
from image_similarity.stages.embeddings import class_names
from image_similarity.storage import uris
from image_similarity.warehouse.schemas import scores_slot

if TYPE_CHECKING:
    from image_similarity.stages.tags import by_spark, in_process
    from image_similarity.stages.tags.labels import Labels
    from image_similarity.stages.tags.table import Tagger
    from image_similarity.tagging.hierarchy import Hierarchy
    from image_similarity.warehouse.workspace import Workspace

PROCESS, SPARK = "process", "spark"
_MOST_FREQUENT = 10
_NOT_FINITE = "the classifier makes values that are not finite"
_FEW = 100
"""Labels. A share of fewer images may be off by a tenth: a proportion's error is at most .98 / sqrt(n), at 95 %."""
_EMBED_AGAIN = "embed_images --fingerprint {} --set embeddings.recheck=always"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fingerprint", metavar="NAME", **setting("neighbours.fingerprint", is_text=True))
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="the names of the classifier's classes, one a line, in its order (default: those of its weights)",
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="the fingerprint's weights, where those that were used are not there any more"
    )
    parser.add_argument("--threshold", metavar="P", help="the least probability of a tag", **setting("tags.threshold"))
    parser.add_argument(
        "--label",
        metavar="ATTRIBUTE",
        help="an attribute that says what is in the image, or folder: tags are measured against it",
    )
    parser.add_argument(
        "--where-possible",
        action="store_true",
        help="end well, with one line, where the fingerprint has no classifier, as run_pipeline does",
    )


def fingerprint_tables(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Where none is named, the only fingerprint of which these are published is meant."""
    return ("embeddings",)


def check_early(arguments: argparse.Namespace, settings: Settings) -> None:
    """Raises ``WrongInput`` for what is seen before Spark is started: vectors that are not published, a fingerprint
    that has no classifier for certain, and a file of classes that cannot be read.
    """
    class_names.check(arguments.classes)
    published = early.to_read(arguments.warehouse)
    if published:
        name = settings.neighbours.fingerprint
        early.runs_of(published, "embeddings", name, "embed_images")
        _check_runner(settings, arguments.warehouse)
        with suppress(NoTags) if arguments.where_possible else nullcontext():
            published_classifiers.check(published, settings, name, arguments.classes)


def _check_runner(settings: Settings, warehouse: str) -> None:
    """Raises ``WrongInput`` where this process is asked for what needs Spark."""
    if settings.tags.runner == PROCESS and not uris.is_local(warehouse):
        raise WrongInput(f"tags.runner = process, but {warehouse} is not on this machine: choose spark")


# -- the run -----------------------------------------------------------------------------------------------------------


def run(application: Application, fingerprint: str | None = None, where_possible: bool = False) -> None:
    """``fingerprint``: another than the settings name. ``where_possible``: go on where nothing can be said of images,
    as ``--where-possible`` asks for.
    """
    name = fingerprint or application.settings.neighbours.fingerprint
    job = application.job("tag_images", name)
    if job.already_published():
        return
    try:
        _tag(job)
    except NoTags as reason:
        if not (where_possible or getattr(application.arguments, "where_possible", False)):
            raise
        _withdraw(job, str(reason))


def _tag(job: Job) -> None:
    with job.step("plan"):
        early.runs_of(job.base_snapshot, "embeddings", job.slot, "embed_images")
        published_classifiers.check(job.base_snapshot, job.settings, job.slot, _own(job, "classes"))
        images = _images(job)
        published_classifiers.check_embedded_by(job)
        runner, because = _runner(job, images)
        labels = _labels(job)
    job.plan(*_plan(job, images, runner, because, labels))
    with job.step("prepare the classifier"):
        prepared = published_classifiers.prepared(job, _own(job, "classes"), _own(job, "weights"))
    with job.warehouse.scratch(job.run_id) as scratch:
        _Tagging(job, images, prepared, runner, because, labels, scratch).run()


def _own(job: Job, flag: str) -> Any:
    """What a flag of this job says; None in a pipeline, whose flags may be called so, too."""
    return getattr(job.arguments, flag) if hasattr(job.arguments, "where_possible") else None


def _images(job: Job) -> int:
    """How many images have a vector. Raises `NoTags` if none has."""
    published = job.base_snapshot
    if job.warehouse.local_root is not None:
        images = int(published.dataset("embeddings", job.slot).count_rows())
    else:  # `dataset` might hold all files in memory
        images = sum(map(len, published.batches("embeddings", job.slot, ["fingerprint_key"])))
    if images:
        return images
    raise NoTags(f"no image has a vector by {job.slot}: there is nothing to tag")


def _runner(job: Job, images: int) -> tuple[str, str]:
    """What tags, and why."""
    from image_similarity.stages.tags.in_process import MOST_IMAGES

    asked = job.settings.tags.runner
    _check_runner(job.settings, job.warehouse.uri)
    if asked != "auto":
        return asked, "tags.runner asks for it"
    if job.warehouse.local_root is None:
        return SPARK, f"{job.warehouse.uri} is not on this machine"
    if images > MOST_IMAGES:
        return SPARK, f"there are more than {MOST_IMAGES:,} images"
    return PROCESS, "all is on this machine"


def _labels(job: Job) -> "Labels | None":
    from image_similarity.stages.tags import labels

    attribute = _own(job, "label")
    return labels.read(job.base_snapshot, attribute) if attribute is not None else None


def _plan(job: Job, images: int, runner: str, because: str, labels: "Labels | None") -> Iterator[str]:
    threshold = _threshold(job)
    yield f"tag {counted(images, 'image')} by the classifier of {job.slot}, where a probability is {threshold} or more"
    if labels is not None:
        yield f"measure tags against the {job.arguments.label} of {counted(labels.labelled, 'image')}"
    yield f"{'in this process, without Spark' if runner == PROCESS else 'by Spark'}: {because}"
    yield f"write tags to {job.warehouse.uri}"


def _threshold(job: Job) -> str:
    return f"{job.settings.tags.threshold:g}"


def _withdraw(job: Job, reason: str) -> None:
    """Says why there are no tags. Those of vectors that were replaced are unpublished; others stay."""
    earlier = job.base_snapshot.run_ids("tags", job.slot)
    job.say(f"tag_images {job.slot}: no tags: {reason}", event="note")
    if not earlier or job.arguments.dry_run:
        return
    if _are_of_published_vectors(job, earlier):
        job.say(f"tag_images {job.slot}: the tags of run {', '.join(earlier)} stay: their vectors did not change")
        return
    job.application.begin()
    job.publish(replace={}, remove={"tags": [job.slot]}, inputs={}, counts={"images": 0}, used={"no_tags": reason})
    job.say(f"tag_images {job.slot}: the tags of run {', '.join(earlier)} are not published any more", event="note")


def _are_of_published_vectors(job: Job, runs: Sequence[str]) -> bool:
    """Whether the tags of ``runs`` were made of vectors like those that are published now."""
    records = [job.base_snapshot.runs.get(run) for run in runs]
    keys = {record.settings.get("fingerprint_key") if record is not None else None for record in records}
    is_any_embedded = next(filter(len, job.base_snapshot.batches("embeddings", job.slot, ["fingerprint_key"])), None)
    return is_any_embedded is not None and keys == {published_classifiers.key_of(job.base_snapshot, job.slot)}


@dataclass(frozen=True)
class _Tagging:
    """One run: what it reads, and what it says of it."""

    job: Job
    images: int
    prepared: Prepared
    runner: str
    because: str
    labels: "Labels | None"
    scratch: "Workspace"

    def run(self) -> None:
        source, tagger = self._source(), self._tagger()
        if self.labels is not None:
            _check_labels(self.job, self.labels, tagger)
        with self.job.step("write tags"):
            self._write(source, tagger)
        counts = self._counts(self._by_tag(), source)
        if counts["without_scores"] == self.images:
            self.job.warehouse.remove("tags", self.job.run_id)
            is_kept = counts["logits_not_finite"] == self.images
            raise NoTags(f"of all images of {self.job.slot} {_NOT_FINITE}" if is_kept else self._nothing_kept())
        if self.labels is not None:
            with self.job.step("measure against labels"):
                counts |= self._calibration(self.labels, source, tagger)
        self._publish(counts)
        _summarise(self.job, counts)

    # -- reading -------------------------------------------------------------------------------------------------------

    @property
    def _table(self) -> str:
        """Where scores come from."""
        return "vectors" if self.prepared.classifier.from_vectors else "class_scores"

    @property
    def _slot(self) -> str:
        classifier = self.prepared.classifier
        return self.prepared.key if classifier.from_vectors else scores_slot(self.prepared.key, classifier.key)

    @property
    def _runs(self) -> list[str]:
        return self.job.base_snapshot.run_ids(self._table, self._slot)

    def _source(self) -> "in_process.Source | by_spark.Source":
        """Raises `NoTags` where no classes were kept while images were embedded."""
        classifier = self.prepared.classifier if self.prepared.classifier.from_vectors else None
        if not self._runs:
            raise NoTags(self._nothing_kept())
        if self.runner == PROCESS:
            from image_similarity.stages.tags import in_process

            return in_process.Source(self.job.base_snapshot, self._slot, classifier)
        from image_similarity.stages.tags import by_spark

        return by_spark.Source(self.job.warehouse, self._runs, self.scratch, classifier)

    def _nothing_kept(self) -> str:
        return (
            f"no classes of this classifier were kept when the images of {self.job.slot} were embedded: run "
            f"{_EMBED_AGAIN.format(self.job.slot)}, once"
        )

    def _tagger(self) -> "Tagger":
        from image_similarity.stages.tags.table import Tagger
        from image_similarity.tagging.hierarchy import Hierarchy

        settings = self.job.settings.tags
        hierarchy = Hierarchy.of(self.prepared.classifier.classes)
        if hierarchy.differing:
            note(_names_differ(self.job.slot, hierarchy))
        return Tagger(hierarchy, settings.threshold, settings.temperature, settings.keep)

    # -- writing -------------------------------------------------------------------------------------------------------

    def _write(self, source: Any, tagger: "Tagger") -> None:
        job = self.job
        if self.runner == PROCESS:
            from image_similarity.stages.tags import in_process

            job.warehouse.write_here("tags", job.run_id, in_process.run(job.session, source, job.slot, tagger))
            return
        from image_similarity.stages.tags import by_spark

        embeddings = job.base_snapshot.run_ids("embeddings", job.slot)
        by_spark.run(source, embeddings, self.images, job.slot, tagger, job.run_id)

    def _by_tag(self) -> pa.Table:
        """Of the best class of each image, as it was written: class, accepted, and the number of images."""
        job, columns = self.job, ["class", "accepted"]
        if self.runner == PROCESS:
            import pyarrow.dataset as ds

            first = job.base_snapshot.dataset_of("tags", [job.run_id]).to_table(columns, filter=ds.field("rank") == 1)
            return first.group_by(columns).aggregate([([], "count_all")])
        from pyspark.sql import functions as F

        first = job.warehouse.read("tags", [job.run_id]).where("rank = 1").groupBy(*columns)
        counted: pa.Table = first.agg(F.count("*").alias("count_all")).toArrow()
        return counted

    def _counts(self, by_tag: pa.Table, source: Any) -> dict[str, Any]:
        accepted = {row["class"]: row["count_all"] for row in by_tag.to_pylist() if row["accepted"]}
        scored, tagged = sum(by_tag["count_all"].to_pylist()), sum(accepted.values())
        ordered = sorted(accepted.items(), key=lambda item: (-item[1], item[0]))
        without = self.images - scored
        return {
            "images": self.images,
            "tagged": tagged,
            "untagged": scored - tagged,
            "without_scores": without,
            "logits_not_finite": self._not_finite(source, without),
            "different_tags": len(accepted),
            "most_frequent": dict(ordered[:_MOST_FREQUENT]),
            "rows": self.job.warehouse.count("tags", self.job.run_id),
        }

    def _not_finite(self, source: Any, without_scores: int) -> int:
        """How many images have no scores because the logits are not finite. Every image has a vector, so that of those
        that are tagged by vectors there is no other reason.
        """
        if self.prepared.classifier.from_vectors or not without_scores:
            return without_scores
        if self.runner == PROCESS:
            return int(source.not_finite(self.job.slot))
        return int(source.not_finite(self.job.base_snapshot.run_ids("embeddings", self.job.slot)))

    def _calibration(self, labels: "Labels", source: Any, tagger: "Tagger") -> dict[str, Any]:
        """For the counts of the run; empty if there is nothing to measure."""
        from image_similarity.stages.tags import calibrated

        attribute = self.job.arguments.label
        try:
            measured = calibrated.against(labels.by_content(self.job.base_snapshot, self.job.slot), source.of, tagger)
        except ValueError as error:  # those whose labels are classes have no scores
            note(f"--label {attribute}: tags are not measured: {error}")
            return {}
        unmatched = measured.unmatched
        of_labels = {
            "attribute": attribute,
            **measured.record(),
            "unmatched": dict(list(unmatched.items())[:_MOST_FREQUENT]),
            "unmatched_labels": len(unmatched),
            "unmatched_images": sum(unmatched.values()),
        }
        return {"calibration": of_labels}

    def _publish(self, counts: Mapping[str, Any]) -> None:
        job, classifier = self.job, self.prepared.classifier
        job.publish(
            replace={"tags": {job.slot: job.run_id}},
            inputs={"embeddings": job.base_snapshot.run_ids("embeddings", job.slot), self._table: self._runs},
            counts=counts,
            used={
                "tags": job.settings.tags.model_dump(),
                "fingerprint_key": self.prepared.key,
                "classifier": {
                    "key": classifier.key,
                    "names_key": classifier.names_key,
                    "classes": len(classifier.classes),
                },
                "label": _own(job, "label"),
                "runner": {"chosen": self.runner, "because": self.because},
            },
        )


def _check_labels(job: Job, labels: "Labels", tagger: "Tagger") -> None:
    """Raises ``WrongInput`` if no label is a class, or a parent of classes: nothing could be measured."""
    values = sorted(set(labels.by_image.values()))
    if not any(map(tagger.hierarchy.named, values)):
        named = listed(map(brief, values))
        none_is = f"none of its {len(values):,} values ({named}) is"
        if len(values) == 1:
            none_is = f"its only value ({named}) is not"
        raise WrongInput(
            f"--label {job.arguments.label}: {none_is} a class that {job.slot} knows, or a parent of its classes"
        )


# -- messages ----------------------------------------------------------------------------------------------------------


def described(counts: Mapping[str, Any]) -> str:
    """``151 of 200 images have a tag, 49 have none``."""
    tagged = f"{counts['tagged']:,} of {counted(counts['images'], 'image')}"
    parts = [
        f"{tagged} {'has' if counts['tagged'] == 1 else 'have'} a tag",
        counted(counts["untagged"], "has none", "have none"),
    ]
    if counts["without_scores"]:
        parts.append(f"{counts['without_scores']:,} could not be judged")
    return ", ".join(parts)


def _summarise(job: Job, counts: Mapping[str, Any]) -> None:
    if unclear := counts["logits_not_finite"]:
        note(f"{_untagged(job, unclear)}: of {'it' if unclear == 1 else 'them'} {_NOT_FINITE}")
    if lacking := counts["without_scores"] - unclear:
        note(
            f"{_untagged(job, lacking)}: no classes of this classifier were kept when "
            f"{'it was' if lacking == 1 else 'they were'} embedded: {_EMBED_AGAIN.format(job.slot)} keeps them, once"
        )
    lines = [f"tag_images {job.slot}: {described(counts)}, in {job.seconds:.1f} s"]
    if counts["most_frequent"]:
        tags = ", ".join(f"{brief(tag)} {images:,}" for tag, images in counts["most_frequent"].items())
        lines.append(f"most frequent of {counted(counts['different_tags'], 'different tag')}: {tags}")
    else:
        lines.append(f"no class has a probability of {_threshold(job)} or more in any image (--threshold)")
    if "calibration" in counts:
        lines += _measured(counts["calibration"])
    job.say(*lines)


def _untagged(job: Job, images: int) -> str:
    return f"{counted(images, 'image')} of {job.slot} {'has' if images == 1 else 'have'} no tags"


def _measured(measured: Mapping[str, Any]) -> Iterator[str]:
    """What the labels tell."""
    said = [
        f"the first tag is right in {measured['precision']:.3f} of them" if measured["precision"] is not None else "",
        f"the most probable class in {measured['accuracy']:.3f} of all",
    ]
    yield (
        f"measured against the {printable(measured['attribute'])} of {counted(measured['labelled'], 'image')}: "
        f"{measured['coverage']:.3f} have a tag; {'; '.join(filter(None, said))}"
    )
    if measured["labelled"] < _FEW:
        yield f"these are few labels: any of the shares may be off by {measured['labelled'] ** -0.5:.2f} (at 95 %)"
    yield from _temperature(measured)
    if measured["unmatched_labels"]:
        labels = ", ".join(f"{brief(label)} {images:,}" for label, images in measured["unmatched"].items())
        more = measured["unmatched_labels"] - len(measured["unmatched"])
        yield (
            f"not measured: {counted(measured['unmatched_images'], 'image')} whose label is no class: {labels}"
            + (f" and {counted(more, 'more label')}" if more else "")
        )


def _temperature(measured: Mapping[str, Any]) -> Iterator[str]:
    error = f"expected calibration error {measured['expected_calibration_error']:.3f}"
    if measured["best_temperature"] is not None:
        yield (
            f"{error}; {measured['expected_calibration_error_at_best']:.3f} at the temperature that fits best, "
            f"{measured['best_temperature']:.2f} (--set tags.temperature)"
        )
        return
    cold, hot = measured["temperatures_that_fit"]
    needed = measured["labels_for_temperature"]
    more = f"some {float(f'{needed:.2g}'):,.0f} or more are needed" if needed else "perhaps any beyond"
    yield (
        f"{error}; which temperature fits best cannot be told: "
        f"{counted(measured['labelled'], 'label fits', 'labels fit')} any from {cold:.3g} to {hot:.3g}, and {more}"
    )


def _names_differ(fingerprint: str, hierarchy: "Hierarchy") -> str:
    """About 1,000 names of which most are ImageNet's."""
    examples = listed(f"{brief(hierarchy.nodes[number].name)} (class {number + 1})" for number in hierarchy.differing)
    places = f"at {len(hierarchy.differing):,} of {counted(hierarchy.class_count, 'place')}"
    differ = f"the class names of {fingerprint} differ from ImageNet's {places}"
    if hierarchy.has_parents:
        return f"{differ}, and count as ImageNet's there: {examples}"
    return f"{differ}, so no class has parents: {examples}; are they in the classifier's order?"


if __name__ == "__main__":
    command_line.start("tag_images")
