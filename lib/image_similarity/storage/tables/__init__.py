"""Tables that users bring: CSV, JSON, JSON lines and Parquet, as files or folders. All cells become text.

Every job reads such tables by this package, so that all have the same rules:

- Text stays text. Cells of CSV and numbers of JSON are as written. An empty cell is null, and so are an empty list and
  an empty record.
- Rows without any text are passed over. A row must have as many cells as the header; empty cells beyond it are dropped.
- A name that stands twice in a header or record is refused, unless at most one of them has values.
- Columns of bytes, and columns without a name, are left out.
- Lists and records become compact JSON. Times are UTC, without zeros at the end of a fraction.
- A folder is the files in it. Those whose names begin with ``_`` or ``.`` are passed over. Folders named ``key=value``
  give a column each, as text. Rows of a file that lacks a column have null there, also if it lacks all that are asked
  for.

Text files must be UTF-8; a byte order mark is allowed.
"""

from image_similarity.storage.tables.folders import FORMATS, Part, kind_of, open_table, parts_among, parts_of
from image_similarity.storage.tables.table import Table, check_spelling

__all__ = ["FORMATS", "Part", "Table", "check_spelling", "kind_of", "open_table", "parts_among", "parts_of"]
