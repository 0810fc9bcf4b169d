package org.apache.hadoop.fs.s3a;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.StandardOpenOption;
import org.apache.hadoop.conf.Configuration;

/** Reports what Spark has read or done in a task, in the file ``seen``, to which the script's process writes as well. */
public class Seen {
    /** Report an act to the worker, if the task's folder has the file ``seen``. */
    public static void tell(Configuration conf, String what) throws IOException {
        tell(conf, what, "");
    }

    /** Report an act with its place, an address or a local path. */
    public static void tell(Configuration conf, String what, String place) throws IOException {
        File seen = new File(conf.get("sparklet.task", "/proc/none"), "seen");
        if (seen.exists()) {
            ObjectNode line = JsonNodeFactory.instance.objectNode();
            line.put("seen", what);
            if (!place.isEmpty()) {
                line.put("place", place);
            }
            Files.writeString(seen.toPath(), line.toString() + "\n", StandardOpenOption.APPEND);
        }
    }
}
