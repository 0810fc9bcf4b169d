package org.apache.hadoop.fs.s3a;

import com.fasterxml.jackson.databind.JsonNode;

/** An input of the task as Spark is to read it, see ``SparkInput`` in ``worker/inputs.py``. */
public class SparkInput {
    public final String key; // bucket/key of the address at which Spark finds it
    public final String object; // bucket/key of the object that is read; differs from ``key`` if that is another name
    public final String etag; // as planned; "" if it is unknown
    public final String partitions; // the path of the folder below which its partitions begin; "" if it has none
    public final long bytes;
    public final long modifiedMs; // 0 if it is unknown
    public final ParquetPart part; // null if it is not a slice of Parquet
    public final String copy; // the path of the worker's local copy; "" if it is read from S3
    public final boolean isLines; // whether it is a slice of a text: a header, then the lines from ``start`` to ``end``
    public final long start;
    public final long end;
    public final long headerBytes;

    public SparkInput(String key, JsonNode said) {
        this.key = key;
        object = text(said, "object").isEmpty() ? key : text(said, "object");
        etag = text(said, "etag");
        partitions = text(said, "partitions");
        bytes = at(said, "bytes").asLong();
        modifiedMs = at(said, "modified_ms").asLong();
        copy = text(said, "copy");
        JsonNode slice = at(said, "slice");
        isLines = text(slice, "kind").equals("lines");
        start = at(slice, "start").asLong();
        end = at(slice, "end").asLong();
        headerBytes = at(slice, "header_bytes").asLong();
        part = text(slice, "kind").equals("row-groups") ? new ParquetPart(start, end) : null;
    }

    /** A value as text; "" if there is none. */
    public static String text(JsonNode said, String name) {
        return at(said, name).asText();
    }

    private static JsonNode at(JsonNode said, String name) { // Janino takes the method of JsonNode's supertype
        return (JsonNode) said.path(name);
    }

    /** Whether S3A needs no HEAD request, since it knows the planned ETag and the time of change. */
    public boolean isKnown() {
        return !etag.isEmpty() && modifiedMs > 0;
    }

    /** Whether it is read from S3 as the object itself or as a slice of Parquet. */
    public boolean isInPlace() {
        return copy.isEmpty() && !isLines;
    }

    /** Whether this slice of a text is the object's first one. */
    public boolean isFirst() {
        return start == headerBytes;
    }

    /** The object's own file name if Spark finds it by another name, else "". */
    public String ownName() {
        return object.equals(key) ? "" : object.substring(object.lastIndexOf('/') + 1);
    }
}
