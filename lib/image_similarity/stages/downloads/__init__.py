"""Downloads: a catalogue of addresses -> files in storage, and a list of them that `build_manifest` takes."""
