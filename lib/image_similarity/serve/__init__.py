"""A page on this machine that answers which images of a collection look like a picture, and the same for programs."""
