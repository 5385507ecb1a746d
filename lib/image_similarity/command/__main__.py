"""``python -m image_similarity.command`` is ``image-similarity``."""

from image_similarity.command.main import start

if __name__ == "__main__":
    start()
