package org.apache.hadoop.fs.s3a;

import java.io.BufferedReader;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.file.Files;
import java.util.UUID;
import java.util.regex.Pattern;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FileAlreadyExistsException;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.Path;

/**
 * A Delta commit: a local file that is uploaded when it is closed, unless another writer has made this version.
 *
 * Delta's own log store for S3 checks whether the version exists and then writes it, which is safe for one driver only.
 * Each object has an id of its writer. By the id a writer recognizes its own object after S3's answer was lost, and a
 * later attempt of a shard recognizes what an earlier attempt has added.
 */
class DeltaCommit extends FSDataOutputStream {
    static final Pattern NAME = Pattern.compile(".*/_delta_log/\\d{20}\\.json");
    private static final Pattern ADDS_NONE = Pattern.compile("\"mode\":\"Overwrite\""
            + "|\"operation\":\"(?!WRITE|MERGE|UPDATE|STREAMING UPDATE|CREATE TABLE AS SELECT)");
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
            return; // it was closed before
        }
        try {
            String task = s3a.getConf().get("sparklet.task", "/proc/none");
            File shard = new File(task, "writer");
            String id = UUID.randomUUID().toString();
            if (shard.exists() && addsRows()) {
                String[] words = Files.readString(shard.toPath()).split("\n");
                refuseTwice(words);
                id = words[0] + id;
            }
            if (!PutOnce.put(s3a, path, file, WRITER, id) && !id.equals(writer(path))) {
                throw new FileAlreadyExistsException(path + " is another writer's");
            }
            if (shard.exists()) {
                Seen.tell(s3a.getConf(), "committed"); // so that the shard is not split, which would repeat it
            }
        } finally {
            file.delete();
        }
    }

    /** Whether a repetition of the commit would add its rows once more; its first line has the operation. */
    private boolean addsRows() throws IOException {
        BufferedReader lines = Files.newBufferedReader(file.toPath());
        try {
            return !ADDS_NONE.matcher(lines.readLine() + "").find();
        } finally {
            lines.close();
        }
    }

    /**
     * Fail if an earlier attempt of this shard has added rows.
     *
     * Words of the file ``writer``: the prefix of our ids, the earliest time of a commit, the prefixes of earlier ids.
     */
    private void refuseTwice(String[] words) throws IOException {
        FileStatus[] commits = words.length > 2 ? s3a.listStatus(path.getParent()) : new FileStatus[0];
        for (int at = 0; at < commits.length; at++) {
            Path commit = commits[at].getPath();
            boolean isRecent = commits[at].getModificationTime() >= Long.parseLong(words[1]);
            String id = isRecent && NAME.matcher(commit.toString()).matches() ? writer(commit) : "";
            for (int other = 2; other < words.length && !id.startsWith(words[0]); other++) {
                if (id.startsWith(words[other])) {
                    throw new CommittedBeforeException("attempt " + id.split("/")[2] + " of this shard made version "
                            + Long.parseLong(commit.getName().substring(0, 20)) + " of " + path.getParent().getParent());
                }
            }
        }
    }

    private String writer(Path commit) throws IOException {
        byte[] id = s3a.getXAttr(commit, "header." + WRITER);
        return id == null ? "" : new String(id, "UTF-8");
    }
}

class CommittedBeforeException extends IOException {
    CommittedBeforeException(String message) {
        super(message);
    }
}
