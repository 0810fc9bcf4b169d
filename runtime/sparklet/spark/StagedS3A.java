import java.io.FileNotFoundException;
import java.io.IOError;
import java.io.IOException;
import java.net.URI;
import java.util.Arrays;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.ContentSummary;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FSInputStream;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.FutureDataInputStreamBuilder;
import org.apache.hadoop.fs.GlobPattern;
import org.apache.hadoop.fs.InvalidRequestException;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.PathFilter;
import org.apache.hadoop.fs.RemoteIterator;
import org.apache.hadoop.fs.permission.FsPermission;
import org.apache.hadoop.fs.s3a.Seen;
import org.apache.hadoop.fs.s3a.SparkInput;
import org.apache.hadoop.fs.s3a.TaskS3A;
import org.apache.hadoop.util.Progressable;

/**
 * S3A with the inputs that depend on a reader's options: slices of texts, and inputs that the worker has fetched.
 *
 * It is not cached, so each reader makes one with its own options: only these decide whether a slice has its object's
 * header. All other paths are left to TaskS3A, which is cached.
 */
public class StagedS3A extends FileSystem {
    private static final byte[] LINE_FEED = {'\n'};
    private TaskS3A s3a;
    private URI uri;

    public void initialize(URI given, Configuration conf) throws IOException {
        super.initialize(given, conf);
        setConf(conf);
        uri = URI.create(given.getScheme() + "://" + given.getAuthority());
        Configuration cached = new Configuration(conf);
        cached.set("fs." + given.getScheme() + ".impl", TaskS3A.class.getName());
        cached.setBoolean("fs." + given.getScheme() + ".impl.disable.cache", false);
        s3a = (TaskS3A) FileSystem.get(given, cached);
    }

    /** An input for this reader. */
    private class Shown {
        final SparkInput input;
        private final java.io.File raw; // the original in UTF-16 or UTF-32, beside the copy in UTF-8

        Shown(SparkInput input) {
            this.input = input;
            raw = new java.io.File(input.copy + ".raw");
        }

        /** The worker's copy, in UTF-8 unless the reader names an encoding; null if the input is read from S3. */
        java.io.File file() {
            boolean isUtf8 = encoding().isEmpty() || encoding().equalsIgnoreCase("UTF-8") || !raw.exists();
            return input.copy.isEmpty() ? null : isUtf8 ? new java.io.File(input.copy) : raw;
        }

        /** Where it begins for this reader: without the option header, the header is a row of the first slice only. */
        long start() {
            return input.isFirst() || option("header").equalsIgnoreCase("true") ? 0 : input.headerBytes;
        }

        /** The status. Refused if the reader's filter matches only one of two names: the object's and the path's. */
        FileStatus status(Path path) throws IOException {
            String filter = option("pathGlobFilter");
            String ownName = input.ownName();
            if (!ownName.isEmpty() && !filter.isEmpty() && matches(filter, ownName) != matches(filter, path.getName())) {
                throw new InvalidRequestException(ownName + " has another name here, " + path.getName() + ", and "
                        + "pathGlobFilter takes one of them only: choose inputs by the run's --include instead, or plan "
                        + "without --split");
            }
            Seen.tell(getConf(), "part");
            java.io.File file = file();
            long bytes = file == null ? input.headerBytes + input.end - input.start : file.length();
            long modifiedMs = file == null ? s3a.object(input).getModificationTime() : file.lastModified();
            return new FileStatus(bytes - start(), false, 1, getDefaultBlockSize(path), modifiedMs,
                    StagedS3A.this.makeQualified(path));
        }

        /** Open the whole input, with the header. */
        FSDataInputStream open() throws IOException {
            java.io.File file = file();
            return file == null ? new FSDataInputStream(s3a.lines(input))
                    : getLocal(getConf()).getRaw().open(new Path(file.toURI()), 65536);
        }

        /** Whether its first bytes must be what its name says: a reader of text reads it, and not the original. */
        boolean isChecked() {
            return !raw.equals(file()) && s3a.isReadAsText();
        }
    }

    private static boolean matches(String pattern, String name) {
        return new GlobPattern(pattern).matches(name);
    }

    private String encoding() {
        return option("encoding") + option("charset");
    }

    /** A reader's option by the usual spellings of its name; "" if it is not set. */
    private String option(String name) {
        String[] names = {name, name.toLowerCase(), name.toUpperCase()};
        for (String each : names) {
            if (getConf().get(each) != null) {
                return getConf().get(each);
            }
        }
        return "";
    }

    private String key(Path path) {
        return uri.getHost() + s3a.makeQualified(path).toUri().getPath();
    }

    private Shown shown(Path path) {
        SparkInput input = s3a.byOptions(key(path));
        return input == null ? null : new Shown(input);
    }

    public FileStatus getFileStatus(Path path) throws IOException {
        Shown shown = shown(path);
        return shown == null ? s3a.getFileStatus(path) : shown.status(path);
    }

    public FileStatus[] listStatus(Path path) throws FileNotFoundException, IOException {
        Shown shown = shown(path);
        FileStatus found = shown == null ? s3a.input(path) : shown.status(path);
        if (found != null) {
            return s3a.withOthers(path, found, this, !option("basePath").isEmpty());
        }
        return isView(path) ? s3a.listed(path, this) : s3a.listStatus(path);
    }

    private boolean isView(Path path) {
        return s3a.isView(path);
    }

    public FSDataInputStream open(Path path, int bufferBytes) throws IOException {
        Shown shown = shown(path);
        if (shown == null) {
            return s3a.open(path, bufferBytes);
        }
        s3a.opens(key(path));
        FSDataInputStream opened = new FSDataInputStream(new Reading(shown));
        return shown.isChecked() ? s3a.checked(path, opened) : opened;
    }

    public FutureDataInputStreamBuilder openFile(Path path) throws IOException {
        return shown(path) == null ? s3a.openFile(path) : super.openFile(path);
    }

    public boolean exists(Path path) throws IOException {
        s3a.named(path);
        return shown(path) != null || s3a.exists(path);
    }

    public FileStatus[] globStatus(Path pattern) throws IOException {
        FileStatus[] own = s3a.own(pattern, this);
        return own == null ? s3a.matched(super.globStatus(pattern)) : own;
    }

    public FileStatus[] globStatus(Path pattern, PathFilter filter) throws IOException {
        FileStatus[] own = s3a.own(pattern, this);
        return own == null ? super.globStatus(pattern, filter) : own;
    }

    /** An input from its start. A slice is refused to readers that would find other rows in it than in the object. */
    private class Reading extends FSInputStream {
        private final FSDataInputStream all;
        private final long start;

        Reading(Shown shown) throws IOException {
            all = shown.open();
            if (shown.input.isLines) {
                String comment = option("comment");
                refuse(option("multiLine").equalsIgnoreCase("true"), "multiLine");
                refuse(option("wholetext").equalsIgnoreCase("true"), "wholetext");
                String[] separators = {"lineSep", "textinputformat.record.delimiter"};
                for (String each : separators) { // since the object was cut at line feeds
                    refuse(!option(each).isEmpty() && !option(each).equals("\n"), each);
                }
                refuse(!Arrays.equals("\n".getBytes(encoding().isEmpty() ? "UTF-8" : encoding()), LINE_FEED), "encoding");
                refuse(!comment.isEmpty() && shown.input.headerBytes > 0 && all.read() == comment.charAt(0), "comment");
            }
            start = shown.start();
            seek(0);
        }

        private void refuse(boolean is, String option) throws IOException {
            if (is) {
                all.close();
                String why = "a slice cannot be read with the option " + option + ": plan without --split";
                throw new IOError(new InvalidRequestException(why)); // ignoreCorruptFiles would skip an IOException
            }
        }

        public void seek(long place) throws IOException {
            all.seek(start + place);
        }

        public long getPos() throws IOException {
            return all.getPos() - start;
        }

        public boolean seekToNewSource(long target) {
            return false;
        }

        public int available() throws IOException {
            return all.available();
        }

        public int read() throws IOException {
            return all.read();
        }

        public int read(byte[] into, int at, int length) throws IOException {
            return all.read(into, at, length);
        }

        public void close() throws IOException {
            all.close();
        }
    }

    public Path makeQualified(Path path) {
        return s3a.makeQualified(path);
    }

    public URI getUri() {
        return uri;
    }

    public String getScheme() {
        return uri.getScheme();
    }

    public RemoteIterator listFiles(Path path, boolean recursive) throws FileNotFoundException, IOException {
        return shown(path) == null && !isView(path) ? s3a.listFiles(path, recursive) : super.listFiles(path, recursive);
    }

    public ContentSummary getContentSummary(Path path) throws IOException {
        return shown(path) == null && !isView(path) ? s3a.getContentSummary(path) : super.getContentSummary(path);
    }

    public FSDataOutputStream create(Path path, FsPermission permission, boolean overwrite, int bufferBytes,
            short replication, long blockBytes, Progressable progress) throws IOException {
        return s3a.create(path, permission, overwrite, bufferBytes, replication, blockBytes, progress);
    }

    public FSDataOutputStream createNonRecursive(Path path, FsPermission permission, java.util.EnumSet flags,
            int bufferBytes, short replication, long blockBytes, Progressable progress) throws IOException {
        return s3a.createNonRecursive(path, permission, flags, bufferBytes, replication, blockBytes, progress);
    }

    public FSDataOutputStream append(Path path, int bufferBytes, Progressable progress) throws IOException {
        return s3a.append(path, bufferBytes, progress);
    }

    public boolean rename(Path from, Path to) throws IOException {
        return s3a.rename(from, to);
    }

    public boolean delete(Path path, boolean recursive) throws IOException {
        return s3a.delete(path, recursive);
    }

    public boolean mkdirs(Path path, FsPermission permission) throws IOException {
        return s3a.mkdirs(path, permission);
    }

    public void setWorkingDirectory(Path path) {
        s3a.setWorkingDirectory(path);
    }

    public Path getWorkingDirectory() {
        return s3a.getWorkingDirectory();
    }

    public long getDefaultBlockSize(Path path) {
        return s3a.getDefaultBlockSize(path);
    }

    public boolean hasPathCapability(Path path, String capability) throws IOException {
        return s3a.hasPathCapability(path, capability);
    }
}
