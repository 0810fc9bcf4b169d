"""A run's input: from addresses, lists and items to objects, and from large objects to slices.

``list_requests`` reads the lists of a request, ``lists`` their rows; ``list_rows`` has the formats, and the object that
a row names. ``folders`` lists the files of a local folder, and finds tables. ``selection`` decides which objects are
left out, and why. ``partitions`` finds the columns that folders give. ``slicing`` cuts large objects: text at lines,
Parquet by bytes. ``planning.inventory`` uses all of these.
"""
