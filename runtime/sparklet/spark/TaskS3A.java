package org.apache.hadoop.fs.s3a;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.ByteArrayInputStream;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.net.URI;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.WeakHashMap;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.zip.GZIPInputStream;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.BufferedFSInputStream;
import org.apache.hadoop.fs.ContentSummary;
import org.apache.hadoop.fs.EtagSource;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FSInputStream;
import org.apache.hadoop.fs.FileAlreadyExistsException;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.GlobPattern;
import org.apache.hadoop.fs.InvalidRequestException;
import org.apache.hadoop.fs.LocatedFileStatus;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.PathFilter;
import org.apache.hadoop.fs.RemoteIterator;
import org.apache.hadoop.fs.impl.FutureIOSupport;
import org.apache.hadoop.fs.impl.OpenFileParameters;
import org.apache.hadoop.fs.permission.FsPermission;
import org.apache.hadoop.fs.s3a.impl.StatusProbeEnum;
import org.apache.hadoop.mapred.InvalidFileTypeException;
import org.apache.hadoop.util.Progressable;
import org.apache.hadoop.util.VersionInfo;
import org.apache.hadoop.util.functional.RemoteIterators;
import org.apache.parquet.hadoop.ParquetFileReader;
import org.apache.parquet.hadoop.ParquetFileWriter;
import org.apache.parquet.hadoop.metadata.FileMetaData;
import org.apache.parquet.hadoop.util.HadoopInputFile;
import org.apache.parquet.hadoop.util.HadoopOutputFile;
import org.apache.spark.TaskContext;

/**
 * S3A that knows size and ETag of a task's inputs from the plan, or requests them once. Otherwise Spark would
 * request them up to eight times.
 *
 * S3A then reads by this ETag, which must be the planned one: if an input was replaced since, there is an error, never a
 * mixture of two objects.
 *
 * In the run's input folders it lists only the shard's inputs, so a script that reads such a folder reads only its part.
 * All files can be read by their names. A file that is read as text must begin as its name says (decision 0074).
 *
 * Inputs below folders like day=1 have the same columns and types as in a job over the whole folder
 * (docs/decisions/0070-a-shard-of-a-folder.md).
 */
public class TaskS3A extends S3AFileSystem {
    private final Map known = new ConcurrentHashMap();
    private final TreeMap inputs = new TreeMap(); // bucket/key -> SparkInput
    private final List roots = new ArrayList(); // bucket/key/ of the run's input folders
    private final Set opened = ConcurrentHashMap.newKeySet(); // bucket/key of inputs that were opened
    private boolean hasSeen;
    private final Set told = ConcurrentHashMap.newKeySet(); // acts that were reported, with their addresses
    private final Set dynamic = ConcurrentHashMap.newKeySet(); // addresses whose partitions are replaced one by one
    private final Map written = new ConcurrentHashMap(); // what the task has written, by bucket/key
    private final Map sizes = new ConcurrentHashMap(); // bytes of written files whose names are unique, by bucket/key
    private final Set tables = ConcurrentHashMap.newKeySet(); // bucket/key/ of tables whose logs the task has read
    private final Set matched = ConcurrentHashMap.newKeySet(); // bucket/key that a pattern found, and no name since
    private final List others = new ArrayList(); // empty files of other partitions, whose values decide on types
    private Path empty; // the local file with the content of all these
    private final Map headers = new ConcurrentHashMap(); // the headers of texts, by bucket/key
    private Pattern misnamed; // for a file's name and first bytes; null if they are not checked
    private SmallInputs small; // null until the task opens an input
    private String output = ""; // bucket/key of the attempt's own folder; "" if there is none
    private static final Map OPENED = Collections.synchronizedMap(new WeakHashMap()); // inputs opened by each Spark task

    private static final Pattern TEXT_READERS = Pattern.compile("(Line|TextFile|Xml)RecordReader|CodecStreams");
    private static final Pattern BELOW_ADDRESS = // folders that writers make below the address that a script names
            Pattern.compile("/(_temporary|_delta_log|\\.hoodie|_SUCCESS|metadata|[^/]*=[^/]*)(/.*|$)");
    private static final Pattern OF_PARTITIONS = // folders of new partitions before they replace the old ones
            Pattern.compile("(.*?)/\\.spark-staging-[^/]*(.*)");
    private static final int MAX_ADDRESSES = 20;
    private static final Pattern OWN_NAME = // names with a UUID for this file alone: AttemptCommit's, Delta's, Iceberg's
            Pattern.compile("(part-\\d{5,}|\\d{5,}-\\d+)-[0-9a-f]{8}-[0-9a-f-]{27}.*");
    private static final Pattern OF_LOG = Pattern.compile("(.*?/)(_delta_log|metadata)(/.*|$)");
    private static final Pattern ICEBERG_COMMIT = // without a catalog Iceberg commits by renaming a draft to this
            Pattern.compile(".*/metadata/v\\d+(\\.gz)?\\.metadata\\.json(\\.gz)?");
    private static final Long OPEN = Long.valueOf(-1);
    private static final int HEAD_BYTES = 512;
    private static final boolean MUST_ASK = // since Hadoop 3.4, S3A retries for a minute if an object has another ETag
            !VersionInfo.getVersion().matches("(2|3\\.[0-3])\\..*");

    public void initialize(URI uri, Configuration conf) throws IOException {
        super.initialize(uri, conf);
        output = getConf().get("fs.s3a.authoritative.path", "").replaceFirst("^[^/]*//", "");
        java.io.File list = new java.io.File(conf.get("sparklet.task", "/proc/none"), "inputs");
        if (list.exists()) {
            ObjectMapper json = new ObjectMapper();
            for (Object line : Files.readAllLines(list.toPath())) {
                add(json.readTree((String) line));
            }
        }
    }

    /** Add a line of the worker's file ``inputs``, see ``View.lines`` in ``worker/inputs.py``. */
    private void add(JsonNode said) throws IOException {
        if (said.has("misnamed")) {
            misnamed = Pattern.compile(SparkInput.text(said, "misnamed"), Pattern.DOTALL);
        } else if (said.has("folder")) {
            roots.add(SparkInput.text(said, "folder"));
        } else if (said.has("others")) { // a folder whose files are all inputs of other shards
            String key = SparkInput.text(said, "others") + "none";
            if (isHere(key)) {
                Path path = path(key);
                FileStatus empty = new FileStatus(0, false, 1, getDefaultBlockSize(path), 0, path);
                others.add(empty);
                known.put(key, empty); // Spark infers the columns of CSV from all files, one by one
                inputs.put(key, new SparkInput(key, said));
            }
        } else if (isHere(SparkInput.text(said, "input"))) {
            SparkInput input = new SparkInput(SparkInput.text(said, "input"), said);
            if (inputs.put(input.key, input) != null && input.part != null) { // no plan has two in one shard
                throw new IOException("a shard has two parts of " + input.key);
            }
            if (input.copy.isEmpty() && input.part == null && input.isKnown() && !MUST_ASK) {
                Path path = path(input.object);
                known.put(input.key, new S3AFileStatus(input.bytes, input.modifiedMs, path, getDefaultBlockSize(path),
                        getUsername(), input.etag, null));
            }
        }
    }

    private boolean isHere(String key) {
        return key.startsWith(getUri().getHost() + "/");
    }

    /** The path of bucket/key. */
    private Path path(String key) {
        return new Path(getUri().getScheme(), getUri().getHost(), key.substring(key.indexOf('/')));
    }

    /** The folder below which an input's partitions begin; null if it has none, or is not an input. */
    private Path partitions(String key) {
        SparkInput input = inputs == null ? null : (SparkInput) inputs.get(key); // null while S3A is initialized
        return input == null || input.partitions.isEmpty() ? null
                : new Path(getUri().getScheme(), getUri().getHost(), input.partitions);
    }

    private ParquetPart part(String key) {
        SparkInput input = (SparkInput) inputs.get(key);
        return input == null ? null : input.part;
    }

    /** For Spark's index of files, which calls this for each path, return the folder below which partitions begin. */
    public Path makeQualified(Path path) {
        Path found = super.makeQualified(path.toUri().getPath().isEmpty() ? new Path(path, "/") : path); // s3://bucket
        Path folder = partitions(key(found));
        return folder != null && !matched.contains(key(found)) && isAskedForBasePaths() ? folder : found;
    }

    public FileStatus[] globStatus(Path pattern, PathFilter filter) throws IOException {
        FileStatus[] own = own(pattern, this);
        return own == null ? matched(super.globStatus(pattern, filter)) : own;
    }

    /** The input whose name Spark takes for a pattern, escaped or not; null if the name is of no input. */
    public FileStatus[] own(Path pattern, FileSystem asked) throws IOException {
        String name = pattern.toUri().getPath();
        String[] names = {name, name.replaceAll("\\\\(.)", "$1")};
        for (int at = 0; at < names.length; at++) {
            Path path = new Path(getUri().getScheme(), getUri().getHost(), names[at]);
            if (inputs.containsKey(key(path))) {
                if (at == 0) {
                    refuseIfOthersFit(name);
                }
                named(path);
                return new FileStatus[] {asked.getFileStatus(path)};
            }
        }
        return null;
    }

    /** Refuse a name that, read as a pattern, also matches other inputs: it is unknown what the script means. */
    private void refuseIfOthersFit(String name) throws IOException {
        GlobPattern pattern;
        try {
            pattern = new GlobPattern(name);
        } catch (RuntimeException none) { // not a pattern; the exception's class is in Hadoop's copy of a library
            return;
        }
        for (Object each : inputs.keySet()) {
            String key = (String) each;
            String other = key.substring(key.indexOf('/'));
            if (!other.equals(name) && pattern.matches(other)) {
                throw new InvalidRequestException(name + " is an input of this shard and a pattern that " + other
                        + " fits: escape it, as job.input_list() does, or rename it");
            }
        }
    }

    /** Record the files that a pattern has found: for them, unlike for names, Spark finds no partitions. */
    public FileStatus[] matched(FileStatus[] found) {
        for (int at = 0; found != null && at < found.length; at++) {
            matched.add(key(super.makeQualified(found[at].getPath())));
        }
        return found;
    }

    /** Record that a path is read by its name. */
    public void named(Path path) {
        matched.remove(key(super.makeQualified(path)));
    }

    private static boolean isAskedForBasePaths() {
        StackTraceElement[] calls = new Throwable().getStackTrace();
        return calls[2].getMethodName().contains("basePaths") || calls[3].getMethodName().contains("basePaths");
    }

    /** Whether Spark SQL lists files, for which empty files decide on types; for RDD.wholeTextFiles they are records. */
    private static boolean isAskedBySql() {
        StackTraceElement[] calls = new Throwable().getStackTrace();
        for (int at = 2; at < calls.length; at++) {
            if (calls[at].getClassName().startsWith("org.apache.spark.util.HadoopFSUtils")) {
                return true;
            }
        }
        return false;
    }

    public FileStatus getFileStatus(Path path) throws IOException {
        FileStatus found = input(path);
        if (found == null && hasInputs(path)) {
            return new FileStatus(0, true, 1, getDefaultBlockSize(path), 0, super.makeQualified(path));
        }
        return found == null ? super.getFileStatus(path) : found;
    }

    public boolean exists(Path path) throws IOException {
        named(path);
        return input(path) != null || hasInputs(path) || super.exists(path);
    }

    public boolean isDirectory(Path path) throws IOException {
        return input(path) == null && (hasInputs(path) || super.isDirectory(path));
    }

    public FileStatus[] listStatus(Path path) throws FileNotFoundException, IOException {
        FileStatus found = input(path);
        if (found != null) {
            return withOthers(path, found, this, false);
        }
        return isView(path) ? listed(path, this) : super.listStatus(path);
    }

    public RemoteIterator listStatusIterator(Path path) throws FileNotFoundException, IOException {
        return isView(path) ? RemoteIterators.remoteIteratorFromArray(listed(path, this)) : super.listStatusIterator(path);
    }

    public RemoteIterator listLocatedStatus(Path path, PathFilter filter) throws FileNotFoundException, IOException {
        if (!isView(path)) {
            return super.listLocatedStatus(path, filter);
        }
        List all = new ArrayList();
        for (FileStatus child : listed(path, this)) {
            if (filter.accept(child.getPath())) {
                all.add(located(child));
            }
        }
        return RemoteIterators.remoteIteratorFromIterable(all);
    }

    public RemoteIterator listFiles(Path path, boolean recursive) throws FileNotFoundException, IOException {
        return isView(path) ? RemoteIterators.remoteIteratorFromIterable(files(path, recursive))
                : super.listFiles(path, recursive);
    }

    public ContentSummary getContentSummary(Path path) throws IOException {
        if (!isView(path)) {
            return super.getContentSummary(path);
        }
        List files = files(path, true);
        long bytes = 0;
        for (Object file : files) {
            bytes += ((FileStatus) file).getLen();
        }
        return new ContentSummary.Builder().length(bytes).fileCount(files.size()).directoryCount(1).build();
    }

    private List files(Path path, boolean recursive) throws IOException {
        List all = new ArrayList();
        for (FileStatus child : listed(path, this)) {
            if (!child.isDirectory()) {
                all.add(located(child));
            } else if (recursive) {
                all.addAll(files(child.getPath(), true));
            }
        }
        return all;
    }

    private LocatedFileStatus located(FileStatus status) throws IOException {
        return new LocatedFileStatus(status, getFileBlockLocations(status, 0, status.getLen()));
    }

    /** Whether a folder is in an input folder of the run; false if Spark skips it, or the task itself has written it. */
    public boolean isView(Path path) {
        String folder = folder(path);
        for (Object each : roots) {
            String root = (String) each;
            if (folder.startsWith(root)) {
                String below = "/" + folder.substring(root.length());
                return hasInputs(path) || !(below.contains("/_") || below.contains("/.") || isWritten(folder));
            }
        }
        return false;
    }

    private boolean isWritten(String folder) {
        for (Object each : written.keySet()) {
            String key = each + "/";
            if (key.startsWith(folder) || folder.startsWith(key)) {
                return true;
            }
        }
        return false;
    }

    /** Whether this is a folder of the run's input with inputs of the shard. */
    private boolean hasInputs(Path path) {
        String folder = folder(path);
        String first = (String) inputs.ceilingKey(folder);
        for (int at = 0; first != null && first.startsWith(folder) && at < roots.size(); at++) {
            if (folder.startsWith((String) roots.get(at))) {
                return true;
            }
        }
        return false;
    }

    /** The shard's files in a folder of the run's input, with their status by the file system ``asked``. */
    public FileStatus[] listed(Path path, FileSystem asked) throws IOException {
        String folder = folder(path);
        if (!hasInputs(path)) {
            FileStatus named = super.getFileStatus(path);
            if (named.isFile()) {
                return new FileStatus[] {named};
            }
            throw new InvalidRequestException(path + " lies in an input of the run, and nothing in it is an input of this "
                    + "shard: read the input's folder itself, read its files by their names, or keep other files outside it");
        }
        saw();
        fillOthers(asked);
        List all = new ArrayList();
        String last = "";
        for (Iterator keys = inputs.tailMap(folder).keySet().iterator(); keys.hasNext();) {
            String key = (String) keys.next();
            if (!key.startsWith(folder)) {
                break;
            }
            int end = key.indexOf('/', folder.length());
            String child = end < 0 ? key : key.substring(0, end);
            Path own = path(child);
            if (end < 0 && others.contains(known.get(key))) {
                if (isAskedBySql()) {
                    all.add(known.get(key));
                }
            } else if (end < 0) {
                all.add(asked.getFileStatus(own));
            } else if (!child.equals(last)) {
                all.add(new FileStatus(0, true, 1, getDefaultBlockSize(own), 0, own));
                last = child;
            }
        }
        return (FileStatus[]) all.toArray(new FileStatus[0]);
    }

    private String folder(Path path) {
        String key = key(super.makeQualified(path));
        return key.endsWith("/") ? key : key + "/";
    }

    /** Report once that Spark has looked for an input of the shard. */
    private void saw() throws IOException {
        if (!hasSeen) {
            hasSeen = true;
            Seen.tell(getConf(), "input");
        }
    }

    /** Report once that the task has changed files in its output, or in another folder; return whether in its output. */
    private boolean tell(String what, String key, String folder) throws IOException {
        boolean isOutput = !output.isEmpty() && key.startsWith(output);
        String mark = isOutput ? "output" : what;
        String address = isOutput ? "" : address(folder);
        if ((isOutput || told.size() < MAX_ADDRESSES) && told.add(mark + address)) {
            Seen.tell(getConf(), mark, address);
        }
        return isOutput;
    }

    /** The address that a script has named for a folder; the partition's own if partitions are replaced one by one. */
    private String address(String folder) {
        Matcher partitions = OF_PARTITIONS.matcher(folder);
        if (partitions.matches()) {
            dynamic.add(partitions.group(1));
            folder = partitions.group(1) + partitions.group(2).replaceAll("/(?![^/=]+=)[^/]*", "");
        }
        String address = BELOW_ADDRESS.matcher(folder).replaceFirst("");
        return dynamic.contains(address) ? folder : address;
    }

    public FSDataOutputStream create(Path path, FsPermission permission, boolean overwrite, int bufferBytes,
            short replication, long blockBytes, Progressable progress) throws IOException {
        String key = key(super.makeQualified(path));
        boolean isOutput = tell("written", key, key.replaceFirst("/[^/]*$", ""));
        boolean isNew = (isOutput || isOfTable(key)) && OWN_NAME.matcher(path.getName()).matches()
                && sizes.putIfAbsent(key, OPEN) == null;
        if (!isNew) {
            forget(key);
        }
        written.put(key, "");
        if (!overwrite && DeltaCommit.NAME.matcher(key).matches()) {
            return new DeltaCommit(this, path, createTmpFileForWrite("delta-", 0, getConf()));
        }
        FSDataOutputStream file =
                super.create(path, permission, overwrite, bufferBytes, replication, blockBytes, progress);
        return isNew ? new Sized(file, key) : file;
    }

    private boolean isOfTable(String key) {
        boolean is = false;
        for (Iterator each = tables.iterator(); each.hasNext() && !is;) {
            is = key.startsWith((String) each.next()) && !key.contains("/_temporary/");
        }
        return is;
    }

    /** Records the size of a new file when it is closed, which saves the three requests of Spark's checks. */
    private class Sized extends FSDataOutputStream {
        private final String key;

        Sized(FSDataOutputStream file, String key) throws IOException {
            super(file, null);
            this.key = key;
        }

        public void close() throws IOException {
            super.close();
            sizes.replace(key, OPEN, Long.valueOf(getPos()));
        }
    }

    /** S3A's own lookup, which only its package can override. A file in the place of the output fails the shard. */
    S3AFileStatus innerGetFileStatus(Path path, boolean needsToBeEmpty, Set probes) throws IOException {
        String key = key(super.makeQualified(path));
        Long bytes = sizes == null ? null : (Long) sizes.get(key);
        Matcher log = OF_LOG.matcher(key);
        if (tables != null && log.matches()) { // null while S3A is initialized
            tables.add(log.group(1));
        }
        if (key.equals(output) && probes.containsAll(StatusProbeEnum.LIST_ONLY)) {
            probes = StatusProbeEnum.LIST_ONLY;
        }
        if (OPEN.equals(bytes)) {
            throw new FileNotFoundException(path + " is being written");
        }
        return bytes == null ? super.innerGetFileStatus(path, needsToBeEmpty, probes)
                : new S3AFileStatus(bytes.longValue(), System.currentTimeMillis(), super.makeQualified(path),
                        getDefaultBlockSize(path), getUsername(), null, null);
    }

    private void forget(String key) {
        for (Iterator keys = sizes.keySet().iterator(); keys.hasNext();) {
            String each = (String) keys.next();
            if (each.equals(key) || each.startsWith(key + "/")) {
                keys.remove();
            }
        }
    }

    public boolean mkdirs(Path path, FsPermission permission) throws IOException {
        written.put(key(super.makeQualified(path)), "");
        return super.mkdirs(path, permission);
    }

    public boolean delete(Path path, boolean recursive) throws IOException {
        boolean deleted = super.delete(path, recursive);
        String key = key(super.makeQualified(path));
        forget(key);
        boolean isOwn = isWritten(key + "/") || isTidied(key); // deleting its own files is not reported
        if (deleted && !path.toString().contains("/_") && !isOwn) {
            tell("deleted", key, key);
        }
        return deleted;
    }

    /** Whether this is in a table whose log the task writes, as by Hudi's rollbacks and cleans, and Delta's VACUUM. */
    private boolean isTidied(String key) {
        boolean is = key.contains("/.hoodie/");
        for (int end = key.lastIndexOf('/'); end > 0 && !is; end = key.lastIndexOf('/', end - 1)) {
            String table = key.substring(0, end);
            is = isWritten(table + "/.hoodie/") || isWritten(table + "/_delta_log/");
        }
        return is;
    }

    public boolean rename(Path from, Path to) throws IOException {
        written.put(key(super.makeQualified(to)), "");
        forget(key(super.makeQualified(from)));
        return ICEBERG_COMMIT.matcher(to.toString()).matches() ? commit(from, to) : super.rename(from, to);
    }

    /** Rename a draft without replacing a file; S3A's own would replace a file that was made since Iceberg's check. */
    private boolean commit(Path from, Path to) throws IOException {
        FSDataInputStream draft = open(from);
        byte[] metadata;
        try {
            metadata = draft.readAllBytes();
        } finally {
            draft.close();
        }
        FSDataOutputStream version = new DeltaCommit(this, to, createTmpFileForWrite("iceberg-", 0, getConf()));
        version.write(metadata);
        try {
            version.close();
        } catch (FileAlreadyExistsException another) {
            return false; // Iceberg then throws CommitFailedException
        }
        delete(from, false);
        return true;
    }

    /** Give the empty files content: Spark takes the columns of Parquet from the first file, which may be one of them. */
    private void fillOthers(FileSystem asked) throws IOException {
        for (Iterator keys = inputs.keySet().iterator(); empty == null && !others.isEmpty() && keys.hasNext();) {
            String key = (String) keys.next();
            if (!others.contains(known.get(key))) {
                empty = new Path("file:///dev/null");
                if (key.contains(".parquet")) {
                    fill(asked.getFileStatus(path(key)), asked.getConf());
                }
            }
        }
    }

    private void fill(FileStatus input, Configuration conf) throws IOException {
        ParquetFileReader reader = ParquetFileReader.open(HadoopInputFile.fromStatus(input, conf));
        FileMetaData file = reader.getFooter().getFileMetaData();
        reader.close();
        Path place = new Path("file://" + conf.get("sparklet.task") + "/none.parquet");
        ParquetFileWriter writer = new ParquetFileWriter(HadoopOutputFile.fromPath(place, conf), file.getSchema(),
                ParquetFileWriter.Mode.OVERWRITE, 1048576, 0);
        writer.start();
        writer.end(file.getKeyValueMetaData());
        empty = place;
        long bytes = getLocal(conf).getRaw().getFileStatus(place).getLen();
        for (int at = 0; at < others.size(); at++) {
            Path path = ((FileStatus) others.get(at)).getPath();
            FileStatus filled = new FileStatus(bytes, false, 1, getDefaultBlockSize(path), 0, path);
            others.set(at, filled);
            known.put(key(path), filled);
        }
    }

    /** An input and, if it is in a partition and the reader finds partitions, the empty files of other partitions. */
    public FileStatus[] withOthers(Path path, FileStatus found, FileSystem asked, boolean hasBasePath) throws IOException {
        List all = new ArrayList();
        String key = key(super.makeQualified(path));
        if (partitions(key) != null && (hasBasePath || !matched.contains(key)) && isAskedBySql()) {
            fillOthers(asked);
            all.addAll(others);
        }
        all.add(found);
        return (FileStatus[]) all.toArray(new FileStatus[0]);
    }

    public FSDataInputStream open(Path path, int bufferBytes) throws IOException {
        return (FSDataInputStream) FutureIOSupport.awaitFuture(openFile(path).build());
    }

    public CompletableFuture openFileWithOptions(Path path, OpenFileParameters parameters) throws IOException {
        String key = key(super.makeQualified(path));
        if (others.contains(known.get(key))) { // readers with multiLine also open empty files
            return CompletableFuture.completedFuture(getLocal(getConf()).getRaw().open(empty, 4096));
        }
        if (inputs.containsKey(key)) {
            opens(key);
        } else if (isView(path) && told.size() < MAX_ADDRESSES && told.add("named" + key)) {
            Seen.tell(getConf(), "named", key);
        }
        FileStatus given = parameters.getStatus(); // S3A's own if the whole file of a part is opened, see ``object``
        ParquetPart part = given instanceof EtagSource ? null : part(key);
        FileStatus found = given instanceof EtagSource ? null : input(path);
        if (found != null) {
            parameters.withStatus(part == null ? found : part.whole());
        }
        FSInputStream body = inputs.containsKey(key) && part(key) == null ? small().stream(key) : null;
        CompletableFuture opened = body == null ? super.openFileWithOptions(path, parameters)
                : CompletableFuture.completedFuture(new FSDataInputStream(body));
        if (part == null && !isReadAsText()) {
            return opened;
        }
        FSDataInputStream stream = (FSDataInputStream) FutureIOSupport.awaitFuture(opened);
        return CompletableFuture.completedFuture(part == null ? checked(path, stream) : part.open(stream));
    }

    private synchronized SmallInputs small() throws IOException {
        if (small == null) {
            small = new OfThisStore();
            for (Object each : inputs.values()) {
                SparkInput input = (SparkInput) each;
                boolean isKnown = known.get(input.key) instanceof S3AFileStatus && input.part == null;
                if (isKnown && input.isLines) { // a slice is always read as a whole, by some readers more than once
                    small.read(input.key, upTo(input.end, input), own(input), SmallInputs.MAX_BYTES_TOGETHER);
                } else if (isKnown) {
                    small.read(input.key, (S3AFileStatus) known.get(input.key), 0, SmallInputs.MAX_BYTES);
                }
            }
            small.noMore();
        }
        return small;
    }

    private class OfThisStore extends SmallInputs {
        public FSDataInputStream opened(S3AFileStatus status) throws IOException {
            return asStored(status);
        }

        public void count(int bytes) {
            countRead(bytes);
        }
    }

    private void countRead(int bytes) { // since an inner class has no access to ``statistics``
        statistics.incrementBytesRead(bytes);
    }

    private FSDataInputStream asStored(S3AFileStatus status) throws IOException {
        OpenFileParameters parameters = new OpenFileParameters().withStatus(status).withBufferSize(4096)
                .withMandatoryKeys(Collections.EMPTY_SET).withOptions(new Configuration(false));
        return (FSDataInputStream) FutureIOSupport.awaitFuture(
                super.openFileWithOptions(status.getPath(), parameters));
    }

    /** Open a slice of a text: the object's header, then the slice's own lines. */
    public FSInputStream lines(SparkInput input) throws IOException {
        byte[] header = header(input);
        FSInputStream own = small().stream(input.key);
        return own != null ? new TextPart(header, own, 0)
                : new TextPart(header, (FSInputStream) asStored(upTo(input.end, input)).getWrappedStream(), own(input));
    }

    /** Where a slice of a text begins in its object; the first one begins with the header. */
    private static long own(SparkInput input) {
        return input.isFirst() ? 0 : input.start;
    }

    private synchronized byte[] header(SparkInput input) throws IOException {
        if (input.isFirst()) {
            return new byte[0];
        }
        byte[] header = (byte[]) headers.get(input.object);
        if (header == null) {
            header = new byte[(int) input.headerBytes];
            if (header.length > 0) {
                FSDataInputStream stream = asStored(upTo(input.headerBytes, input));
                try {
                    stream.readFully(header);
                } finally {
                    stream.close();
                }
            }
            headers.put(input.object, header);
        }
        return header;
    }

    /** A status with only the first bytes of an input's object: S3A reads no further, and makes no other request. */
    private S3AFileStatus upTo(long bytes, SparkInput input) throws IOException {
        FileStatus whole = object(input);
        return new S3AFileStatus(bytes, whole.getModificationTime(), whole.getPath(), whole.getBlockSize(),
                getUsername(), ((EtagSource) whole).getEtag(), null);
    }

    public void close() throws IOException {
        if (small != null) {
            small.close();
        }
        super.close();
    }

    /** Record and report that this thread's Spark task reads an input, by its ETag or from a copy. */
    public void opens(String key) throws IOException {
        if (opened.add(key)) {
            Seen.tell(getConf(), "opened", key);
        }
        TaskContext task = TaskContext.get();
        if (task != null) {
            OPENED.putIfAbsent(task, ConcurrentHashMap.newKeySet());
            ((Set) OPENED.get(task)).add(key);
        }
    }

    /** The inputs that a Spark task has opened. */
    public static Set opened(TaskContext task) {
        return (Set) OPENED.getOrDefault(task, Collections.EMPTY_SET);
    }

    /** Whether the caller is a reader of text, and names must fit the first bytes: such readers accept any bytes. */
    public boolean isReadAsText() {
        return misnamed != null && TEXT_READERS.matcher(Arrays.toString(new Throwable().getStackTrace())).find();
    }

    /** A stream that throws when the file's first bytes are read and are not what its name says. */
    public FSDataInputStream checked(Path path, FSDataInputStream opened) {
        return new FSDataInputStream(new Checked((FSInputStream) opened.getWrappedStream(), path));
    }

    private class Checked extends BufferedFSInputStream {
        private final Path path;
        private boolean isChecked;

        Checked(FSInputStream stream, Path path) {
            super(stream, 8192);
            this.path = path;
        }

        public int read() throws IOException {
            check();
            return super.read();
        }

        public int read(byte[] into, int at, int length) throws IOException {
            check();
            return super.read(into, at, length);
        }

        private void check() throws IOException {
            if (isChecked || getPos() > 0) {
                return;
            }
            isChecked = true;
            mark(HEAD_BYTES);
            if (isMisnamed(path.getName(), readNBytes(HEAD_BYTES))) {
                if (inputs.containsKey(key(TaskS3A.this.makeQualified(path)))) {
                    Seen.tell(getConf(), "misnamed"); // the worker then checks all inputs and runs the script again
                }
                throw new InvalidFileTypeException(path + " is not what its name says, by its first bytes, but packed, "
                        + "compressed or in UTF-16: unpack or convert it, or give it the name of what it is");
            }
            reset();
        }
    }

    private boolean isMisnamed(String name, byte[] head) throws IOException {
        if (misnamed.matcher(name + "\0" + new String(head, "ISO-8859-1")).lookingAt()) {
            return true;
        }
        byte[] inner = new byte[HEAD_BYTES];
        try { // a single read returns all that these bytes contain
            int length = name.endsWith(".gz") ? new GZIPInputStream(new ByteArrayInputStream(head)).read(inner) : 0;
            return length > 0 && isMisnamed(name.substring(0, name.length() - 3), Arrays.copyOf(inner, length));
        } catch (IOException empty) {
            return false;
        }
    }

    private String key(Path qualified) {
        return getUri().getHost() + qualified.toUri().getPath();
    }

    /** An input that depends on a reader's options: a slice of a text, or one that the worker has copied; else null. */
    public SparkInput byOptions(String key) {
        SparkInput input = (SparkInput) inputs.get(key);
        return input == null || input.isInPlace() ? null : input;
    }

    /** The status of an input; null for any other path. */
    public FileStatus input(Path path) throws IOException {
        SparkInput input = (SparkInput) inputs.get(key(super.makeQualified(path)));
        if (input != null && !input.isInPlace()) { // the whole object would be read without an error
            throw new InvalidRequestException(path + " is shown by a reader's options alone");
        }
        try {
            FileStatus found = input == null ? null : object(input);
            if (input != null) {
                saw();
            }
            return found;
        } catch (FileNotFoundException missing) {
            return null;
        }
    }

    /** The status of an input's object, from the plan or by one request; that of the part for a slice of Parquet. */
    public FileStatus object(SparkInput input) throws IOException {
        if (!known.containsKey(input.key)) {
            FileStatus found = super.getFileStatus(path(input.object));
            if (!found.isFile()) {
                throw new FileNotFoundException(found.getPath() + " is a folder");
            }
            String etag = ((EtagSource) found).getEtag().replace("\"", "");
            if (!input.etag.isEmpty() && !etag.equals(input.etag)) {
                throw new RemoteFileChangedException(input.object, "read", "replaced since the plan: ETag " + etag
                        + ", planned " + input.etag);
            }
            if (input.part != null) {
                Seen.tell(getConf(), "part");
                input.part.read(found, (FSDataInputStream) FutureIOSupport.awaitFuture(
                        openFile(found.getPath()).withFileStatus(found).build()));
            }
            known.put(input.key, input.part == null ? found : input.part.status());
        }
        return (FileStatus) known.get(input.key);
    }
}
