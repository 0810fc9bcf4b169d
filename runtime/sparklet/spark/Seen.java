package org.apache.hadoop.fs.s3a;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.StandardOpenOption;
import org.apache.hadoop.conf.Configuration;

/** What Spark has seen or done in a task: lines of the file ``seen``, where the script's process writes its own. */
public class Seen {
    /** Tell the worker, if it asks. */
    public static void tell(Configuration conf, String what) throws IOException {
        tell(conf, what, "");
    }

    /** The same, with the address, or the local path, of it. */
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
