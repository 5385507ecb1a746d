"""Bytes at a URI.

- ``uris``          schemes, local paths, how Spark and other programs name a place
- ``blobs``         read, write and list files of any store, through pyarrow
- ``files``         what publishing needs of a store; ``local``, ``object_store``, ``hadoop``: the three kinds, of which
  ``filesystems`` picks one
- ``http_client``   files at http(s) addresses, with patience and suspicion
- ``fetch``         the bytes of one image, or the reason why they cannot be had
"""
