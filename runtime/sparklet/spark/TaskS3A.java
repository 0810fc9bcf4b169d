import java.io.FileNotFoundException;
import java.io.IOException;
import java.net.URI;
import java.nio.file.Files;
import java.util.HashMap;
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
 */
public class TaskS3A extends S3AFileSystem {
    private final Map known = new ConcurrentHashMap();
    private final Map inputs = new HashMap(); // bucket/key -> planned ETag, "" if nobody knows it

    public void initialize(URI uri, Configuration conf) throws IOException {
        super.initialize(uri, conf);
        java.io.File list = new java.io.File(conf.get("sparklet.task", "/proc/none"), "inputs");
        if (list.exists()) {
            String[] words = new String(Files.readAllBytes(list.toPath()), "UTF-8").split("\0", -1);
            for (int at = 0; at + 1 < words.length; at += 2) {
                inputs.put(words[at], words[at + 1]);
            }
        }
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
        return found == null ? super.listStatus(path) : new FileStatus[] {found};
    }

    public FSDataInputStream open(Path path, int bufferBytes) throws IOException {
        return input(path) == null ? super.open(path, bufferBytes)
                : (FSDataInputStream) FutureIOSupport.awaitFuture(openFile(path).build());
    }

    public CompletableFuture openFileWithOptions(Path path, OpenFileParameters parameters) throws IOException {
        FileStatus found = parameters.getStatus() == null ? input(path) : null;
        return super.openFileWithOptions(path, found == null ? parameters : parameters.withStatus(found));
    }

    /** What is known of an input; null for any other path. */
    private FileStatus input(Path path) throws IOException {
        String key = getUri().getHost() + makeQualified(path).toUri().getPath();
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
