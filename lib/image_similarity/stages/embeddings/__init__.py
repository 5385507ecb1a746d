"""manifest -> embeddings and failures: what each image looks like to one or several fingerprints.

- ``stage``    what need not be done again, the one pass over the rest, and the tables from it
- ``workers``  what a task does with its images: fetch, decode once, put through each fingerprint
- ``saved``    the files in which tasks save vectors, from which a run that follows a killed one goes on
- ``projected``  fingerprints that are made of another's vectors
"""
