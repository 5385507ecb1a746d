"""Bytes at a URI.

- ``uris``          schemes, local paths, and the names that Spark and other programs use for a place
- ``blobs``         read, write and list files of any store, through pyarrow
- ``files``         the operations that publishing needs; ``local``, ``object_store``, ``hadoop`` implement them
- ``filesystems``   selects the implementation for a URI
- ``http_client``   files at http(s) addresses, with retries and limits
- ``tables``        CSV, JSON and Parquet that users bring, by one set of rules
- ``fetch``         the bytes of one image, or the reason of a failure
"""
