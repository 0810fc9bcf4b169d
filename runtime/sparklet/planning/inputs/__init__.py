"""A run's input: from addresses, lists and items to objects, and from large objects to slices.

``list_requests`` are the lists of a request. ``lists`` reads each of them row by row (``list_rows``: the formats, and
the object that a row names). ``folders`` has the files of a folder, and its tables. ``selection`` says which objects
are left out, and why. ``slicing`` cuts large objects at lines, and Parquet by bytes. ``planning.inventory`` puts it
together.
"""
