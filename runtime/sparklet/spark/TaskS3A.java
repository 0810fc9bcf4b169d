import java.io.FileNotFoundException;
import java.io.IOException;
import java.net.URI;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.EtagSource;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.impl.FutureIOSupport;
import org.apache.hadoop.fs.impl.OpenFileParameters;
import org.apache.hadoop.fs.s3a.RemoteFileChangedException;
import org.apache.hadoop.fs.s3a.S3AFileSystem;

/**
 * S3A that asks once for size and ETag of each of a task's inputs, which Spark does up to eight times.
 *
 * S3A then reads by this ETag, which must be the planned one: an input that was replaced since is an error, never a
 * mixture of two objects.
 *
 * Inputs below folders like day=1 have the columns, and these the types, that they have in a job over the whole folder
 * (docs/decisions/0070-a-shard-of-a-folder.md).
 */
public class TaskS3A extends S3AFileSystem {
    private final Map known = new ConcurrentHashMap();
    private final Map inputs = new HashMap(); // bucket/key -> planned ETag, "" if nobody knows it
    private final Map folders = new HashMap(); // bucket/key -> the run's input in which it lies, if that has partitions
    private final List others = new ArrayList(); // empty files of other partitions, whose values decide on types

    public void initialize(URI uri, Configuration conf) throws IOException {
        super.initialize(uri, conf);
        java.io.File list = new java.io.File(conf.get("sparklet.task", "/proc/none"), "inputs");
        if (list.exists()) {
            String[] words = new String(Files.readAllBytes(list.toPath()), "UTF-8").split("\0", -1);
            for (int at = 0; at + 5 < words.length; at += 6) {
                if (words[at].startsWith(uri.getHost() + "/")) {
                    add(words[at], words[at + 1], words[at + 2]);
                }
            }
        }
    }

    private void add(String key, String etag, String folder) {
        if (key.endsWith("/")) {
            key = key + "none";
            Path path = new Path(getUri().getScheme(), getUri().getHost(), key.substring(key.indexOf('/')));
            FileStatus empty = new FileStatus(0, false, 1, getDefaultBlockSize(path), 0, path);
            others.add(empty);
            known.put(key, empty); // Spark infers the columns of CSV from all files, one by one
        }
        inputs.put(key, etag);
        if (!folder.isEmpty()) {
            folders.put(key, new Path(getUri().getScheme(), getUri().getHost(), folder));
        }
    }

    /** Spark's index of files asks this of each path that it reads: below which folder do partitions begin? */
    public Path makeQualified(Path path) {
        Path found = super.makeQualified(path);
        Path folder = folders == null ? null : (Path) folders.get(key(found));
        return folder != null && isAskedForBasePaths() ? folder : found;
    }

    private static boolean isAskedForBasePaths() {
        StackTraceElement[] calls = new Throwable().getStackTrace();
        return calls[2].getMethodName().contains("basePaths") || calls[3].getMethodName().contains("basePaths");
    }

    public FileStatus getFileStatus(Path path) throws IOException {
        FileStatus found = input(path);
        return found == null ? super.getFileStatus(path) : found;
    }

    public boolean exists(Path path) throws IOException {
        return input(path) != null || super.exists(path);
    }

    public boolean isDirectory(Path path) throws IOException {
        return input(path) == null && super.isDirectory(path);
    }

    public FileStatus[] listStatus(Path path) throws FileNotFoundException, IOException {
        FileStatus found = input(path);
        return found == null ? super.listStatus(path) : withOthers(path, found);
    }

    /** An input and, if it lies in a partition, the empty files of others. */
    public FileStatus[] withOthers(Path path, FileStatus found) {
        List all = new ArrayList();
        if (folders.containsKey(key(super.makeQualified(path)))) {
            all.addAll(others);
        }
        all.add(found);
        return (FileStatus[]) all.toArray(new FileStatus[0]);
    }

    public FSDataInputStream open(Path path, int bufferBytes) throws IOException {
        return input(path) == null ? super.open(path, bufferBytes)
                : (FSDataInputStream) FutureIOSupport.awaitFuture(openFile(path).build());
    }

    public CompletableFuture openFileWithOptions(Path path, OpenFileParameters parameters) throws IOException {
        if (others.contains(known.get(key(super.makeQualified(path))))) { // of multiLine, which opens empty files too
            Path empty = new Path("file:///dev/null");
            return CompletableFuture.completedFuture(getLocal(getConf()).getRaw().open(empty, 4096));
        }
        FileStatus found = parameters.getStatus() == null ? input(path) : null;
        return super.openFileWithOptions(path, found == null ? parameters : parameters.withStatus(found));
    }

    private String key(Path qualified) {
        return getUri().getHost() + qualified.toUri().getPath();
    }

    /** What is known of an input; null for any other path. */
    private FileStatus input(Path path) throws IOException {
        String key = key(super.makeQualified(path));
        if (!known.containsKey(key) && inputs.containsKey(key)) {
            String planned = (String) inputs.get(key);
            try {
                FileStatus found = super.getFileStatus(path);
                if (found.isFile()) {
                    String etag = ((EtagSource) found).getEtag().replace("\"", "");
                    if (!planned.isEmpty() && !etag.equals(planned)) {
                        throw new RemoteFileChangedException(key, "read", "replaced since the plan: ETag " + etag
                                + ", planned " + planned);
                    }
                    known.put(key, found);
                }
            } catch (FileNotFoundException missing) {
                return null;
            }
        }
        return (FileStatus) known.get(key);
    }
}
