package org.apache.hadoop.fs.s3a;

import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.util.UUID;
import java.util.regex.Pattern;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FileAlreadyExistsException;
import org.apache.hadoop.fs.Path;

/**
 * A commit of Delta's: a file that becomes an object once it is closed, if no other writer has made that version.
 *
 * Delta's own log store for S3 looks whether the version exists and then writes it, which is safe for one driver only.
 * Each object has an id of its writer, by which one whose answer was lost knows its own.
 */
class DeltaCommit extends FSDataOutputStream {
    static final Pattern NAME = Pattern.compile(".*/_delta_log/\\d{20}\\.json");
    private static final String WRITER = "sparklet-writer"; // in the object's metadata
    private final S3AFileSystem s3a;
    private final Path path;
    private final File file;

    DeltaCommit(S3AFileSystem s3a, Path path, File file) throws IOException {
        super(new FileOutputStream(file), null);
        this.s3a = s3a;
        this.path = path;
        this.file = file;
    }

    public void close() throws IOException {
        super.close();
        if (!file.exists()) {
            return; // closed before
        }
        String id = UUID.randomUUID().toString();
        try {
            if (!PutOnce.put(s3a, path, file, WRITER, id) && !id.equals(writer(path))) {
                throw new FileAlreadyExistsException(path + " is another writer's");
            }
        } finally {
            file.delete();
        }
    }

    private String writer(Path commit) throws IOException {
        byte[] id = s3a.getXAttr(commit, "header." + WRITER);
        return id == null ? "" : new String(id, "UTF-8");
    }
}
