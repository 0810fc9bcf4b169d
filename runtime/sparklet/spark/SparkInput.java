package org.apache.hadoop.fs.s3a;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;

/** An input of the task as Spark shall see it, or a folder: a line of the file ``inputs``, see ``worker/inputs.py``. */
public class SparkInput {
    private static final ObjectMapper JSON = new ObjectMapper();
    public final String key; // bucket/key of its address; of a folder with a slash at the end
    public final boolean isFolder; // of the run's input
    public final boolean isOther; // a folder with other values of partitions, in which nothing is an input of the task
    public final String etag; // planned; "": nobody knows it
    public final String partitions; // the path of the folder below which its partitions begin; "": it lies in none
    public final long bytes;
    public final long modifiedMs; // 0: nobody knows it
    public final ParquetPart part; // null: it is no slice of Parquet
    public final String copy; // the worker's, on this machine; "": it is read from S3
    public final String name; // its own, if it has another one here
    public final boolean isSlice; // of lines
    public final long headerBytes; // of a slice's copy: before its own
    public final boolean isFirst; // of a slice: its object's first one

    public SparkInput(String line) throws IOException {
        JsonNode said = JSON.readTree(line);
        isFolder = said.has("folder");
        isOther = said.has("others");
        key = said.path(isFolder ? "folder" : isOther ? "others" : "input").asText();
        etag = said.path("etag").asText();
        partitions = said.path("partitions").asText();
        bytes = said.path("bytes").asLong();
        modifiedMs = said.path("modified_ms").asLong();
        copy = said.path("copy").asText();
        name = said.path("name").asText();
        JsonNode slice = said.path("slice");
        isSlice = said.has("slice") && !copy.isEmpty();
        part = said.has("slice") && copy.isEmpty()
                ? new ParquetPart(slice.path("start").asLong(), slice.path("end").asLong()) : null;
        headerBytes = slice.path("header_bytes").asLong();
        isFirst = slice.path("start").asLong() == headerBytes;
    }

    /** Whether S3A, which then reads by the planned ETag, need not ask S3 for it. */
    public boolean isKnown() {
        return copy.isEmpty() && part == null && !etag.isEmpty() && modifiedMs > 0;
    }
}
