"""Every setting: its name, type, default and purpose.

Settings come from TOML files and from ``--set section.key=value``, which wins. They are validated into frozen objects
before any work begins. All faults are reported at once, each with where it was written and the expected value.
"""

from image_similarity.settings.fingerprints import (
    DEFAULT_FINGERPRINT,
    UNTRAINED,
    ColourHistogramSettings,
    ExportedSettings,
    FingerprintSettings,
    HogSettings,
    ImageFingerprintSettings,
    NetworkSettings,
    PcaSettings,
)
from image_similarity.settings.loading import Given, ReadFile, declared_fingerprints, default_of, load, read
from image_similarity.settings.sections import (
    ApproximateSettings,
    DownloadsSettings,
    EmbeddingsSettings,
    GallerySettings,
    GroupsSettings,
    HttpSettings,
    ManifestSettings,
    MapSettings,
    NeighboursSettings,
    QualitySettings,
    SearchSettings,
    Settings,
    TagsSettings,
)

__all__ = [
    "DEFAULT_FINGERPRINT",
    "UNTRAINED",
    "ApproximateSettings",
    "ColourHistogramSettings",
    "DownloadsSettings",
    "EmbeddingsSettings",
    "ExportedSettings",
    "FingerprintSettings",
    "GallerySettings",
    "GroupsSettings",
    "QualitySettings",
    "TagsSettings",
    "Given",
    "HogSettings",
    "HttpSettings",
    "ImageFingerprintSettings",
    "ManifestSettings",
    "MapSettings",
    "NeighboursSettings",
    "NetworkSettings",
    "PcaSettings",
    "ReadFile",
    "SearchSettings",
    "Settings",
    "declared_fingerprints",
    "default_of",
    "load",
    "read",
]
