"""What was published, for programs and notebooks: read and searched without Spark.

- ``opening``     finds the warehouse and reads its state; ``collection``: the object that programs hold
- ``defaults``    which fingerprint and metric are meant where none is named
- ``odd_ones``    what is like no other, and which labels are likely wrong
- ``tables``      tables for people; ``runs``: runs as objects; ``changes``: what differs between two runs
- ``reading``     the newest state, and what is said where files are gone; ``summary``: what ``repr`` says
- ``vectors``     the vectors of a fingerprint; ``copies``: their mapped copies in the user's cache; ``own_vectors``:
                  those that a user brought
- ``search``      what looks like a picture; ``queries``, ``encoder``, ``judged``, ``tagged``, ``answers``: its parts
"""

from image_similarity.collection.collection import Collection, Embeddings
from image_similarity.collection.opening import open
from image_similarity.collection.runs import Run

__all__ = ["Collection", "Embeddings", "Run", "open"]
