package org.apache.hadoop.fs.s3a;

import com.fasterxml.jackson.databind.JsonNode;

/** An input of the task as Spark shall see it, see ``SparkInput`` in ``worker/inputs.py``. */
public class SparkInput {
    public final String key; // bucket/key of its address
    public final String object; // bucket/key of what is read: the same, unless it has another name here
    public final String etag; // planned; "": nobody knows it
    public final String partitions; // the path of the folder below which its partitions begin; "": it lies in none
    public final long bytes;
    public final long modifiedMs; // 0: nobody knows it
    public final ParquetPart part; // null: it is no slice of Parquet
    public final String copy; // the worker's, on this machine; "": it is read from S3
    public final boolean isLines; // a slice of a text: lines from ``start`` to ``end``, behind the text's first bytes
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

    /** A value as text; "" without one. */
    public static String text(JsonNode said, String name) {
        return at(said, name).asText();
    }

    private static JsonNode at(JsonNode said, String name) { // Janino takes the method of JsonNode's supertype
        return (JsonNode) said.path(name);
    }

    /** Whether S3A, which then reads by the planned ETag, need not ask S3 for it. */
    public boolean isKnown() {
        return !etag.isEmpty() && modifiedMs > 0;
    }

    /** Whether it is the object as it stands in S3, but for a slice of Parquet. */
    public boolean isInPlace() {
        return copy.isEmpty() && !isLines;
    }

    /** Of a slice of a text: whether its object's first bytes are its own first ones. */
    public boolean isFirst() {
        return start == headerBytes;
    }

    /** Its own name, if it has another one here; "": the same. */
    public String ownName() {
        return object.equals(key) ? "" : object.substring(object.lastIndexOf('/') + 1);
    }
}
