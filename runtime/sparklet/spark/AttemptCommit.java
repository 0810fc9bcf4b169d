import java.io.File;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.RemoteIterator;
import org.apache.hadoop.fs.s3a.Seen;
import org.apache.hadoop.fs.s3a.TaskS3A;
import org.apache.hadoop.mapreduce.Job;
import org.apache.hadoop.mapreduce.JobContext;
import org.apache.hadoop.mapreduce.JobStatus;
import org.apache.hadoop.mapreduce.OutputCommitter;
import org.apache.hadoop.mapreduce.TaskAttemptContext;
import org.apache.hadoop.mapreduce.TaskAttemptID;
import org.apache.hadoop.mapreduce.task.TaskAttemptContextImpl;
import org.apache.spark.SparkContext;
import org.apache.spark.SparkEnv;
import org.apache.spark.TaskContext;
import org.apache.spark.internal.io.FileNameSpec;
import org.apache.spark.sql.catalyst.util.CaseInsensitiveMap$;
import org.apache.spark.sql.execution.QueryExecution;
import org.apache.spark.sql.execution.SQLExecution;
import org.apache.spark.sql.execution.datasources.InsertIntoHadoopFsRelationCommand;
import org.apache.spark.sql.execution.datasources.OutputWriterFactory;
import org.apache.spark.sql.execution.datasources.SQLHadoopMapReduceCommitProtocol;
import org.apache.spark.sql.sources.DataSourceRegister;
import org.apache.spark.util.TaskCompletionListener;

/**
 * Writes files into an attempt's own folder under their final names, which contain the id of Spark's write job.
 *
 * Nobody reads this folder before the attempt has won, so files need not be hidden first and renamed later, for which
 * S3 lists, copies and deletes. While a job is not committed, the task's folder has a file named after its id: by it
 * the worker deletes what such a job has written. A job that has written rows also stores their schema in the task's
 * folder, for the comparison of a run's shards. For other folders, and if special options are set, this is Spark's own
 * protocol.
 */
public class AttemptCommit extends SQLHadoopMapReduceCommitProtocol {
    private static final String USUAL = "org.apache.parquet.hadoop.ParquetOutputCommitter";
    private static final Set WITH_ROWS = ConcurrentHashMap.newKeySet(); // jobs of this JVM that have written rows
    private static final Map ORIGINS = new ConcurrentHashMap(); // for each job with files: task, input and rows of each
    private static final Map ROWLESS = new ConcurrentHashMap(); // for each job: the inputs of tasks without a file
    private static final int ROWLESS_TASK = 100000; // the task number in the name of the first file without rows
    private static final Set ELSEWHERE = ConcurrentHashMap.newKeySet(); // jobs that write to a partition's own location
    private final String job, folder;
    private final boolean dynamic;
    private transient boolean direct;
    private transient List files; // the files of this task

    public AttemptCommit(String job, String folder, boolean dynamic) {
        super(job, folder, dynamic);
        this.job = job;
        this.folder = folder;
        this.dynamic = dynamic;
    }

    public OutputCommitter setupCommitter(TaskAttemptContext context) {
        Configuration conf = context.getConfiguration();
        String own = conf.get("sparklet.attempt", ""); // "" in a task of an event, which has no attempt's folder
        direct = !own.isEmpty() && folder.startsWith("s3") && (folder + "/").contains(own + "/") && !dynamic
                && !SparkEnv.get().conf().get("spark.master", "").contains(",") // else Spark would retry tasks
                && USUAL.equals(conf.get("spark.sql.sources.outputCommitterClass", USUAL))
                && "file".equals(conf.get("fs.s3a.committer.name", "file"))
                && "NONE".equalsIgnoreCase(conf.get("parquet.summary.metadata.level", "NONE"));
        files = new ArrayList();
        return direct ? new Direct() : super.setupCommitter(context);
    }

    public String newTaskTempFile(TaskAttemptContext context, scala.Option dir, FileNameSpec spec) {
        String file = super.newTaskTempFile(context, dir, spec);
        if (direct) {
            if (files.isEmpty()) { // rows are counted when the task ends, since not all files have rows
                TaskContext.get().addTaskCompletionListener((TaskCompletionListener) new TaskCompletionListener() {
                    public void onTaskCompletion(TaskContext context) {
                        long rows = context.taskMetrics().outputMetrics().recordsWritten();
                        if (rows > 0) {
                            WITH_ROWS.add(job);
                        }
                        keepOrigin(context, rows);
                    }
                });
            }
            files.add(new Path(file));
        }
        return file;
    }

    /** Record from which input a task's rows come: the only one that it opened; "" if none, several or a shuffle. */
    private void keepOrigin(TaskContext task, long rows) {
        Set opened = TaskS3A.opened(task);
        boolean isOne = opened.size() == 1 && task.taskMetrics().shuffleReadMetrics().recordsRead() == 0;
        String origin = isOne ? (String) opened.iterator().next() : "";
        ORIGINS.putIfAbsent(job, ConcurrentHashMap.newKeySet());
        ((Set) ORIGINS.get(job)).add(task.partitionId() + "\0" + origin + "\0" + rows);
    }

    public String newTaskTempFileAbsPath(TaskAttemptContext context, String dir, FileNameSpec spec) {
        ELSEWHERE.add(job);
        return super.newTaskTempFileAbsPath(context, dir, spec);
    }

    /** The folder that Spark deletes when a job ends; a local one if it is not used, which saves two requests to S3. */
    public Path stagingDir() {
        return direct && !ELSEWHERE.contains(job) ? new Path("file:///proc/none") : super.stagingDir();
    }

    /** Write format, columns and folder of the command that this thread executes, each on a line. */
    private void tellSchema(File file) {
        try {
            QueryExecution execution = execution();
            if (execution != null) {
                InsertIntoHadoopFsRelationCommand write = (InsertIntoHadoopFsRelationCommand) execution.analyzed();
                Object format = write.fileFormat();
                String name = format instanceof DataSourceRegister ? ((DataSourceRegister) format).shortName() : "";
                file.getParentFile().mkdirs();
                Files.writeString(file.toPath(), name + "\n" + write.query().schema().json() + "\n" + folder);
            }
        } catch (Exception untold) { // then the schema is not compared, which is no reason for the write to fail
            System.err.println("sparklet: the schema of " + folder + " is not known: " + untold);
        }
    }

    /** The execution of this thread if its command writes files, else null. */
    private static QueryExecution execution() {
        String id = SparkContext.getOrCreate().getLocalProperty(SQLExecution.EXECUTION_ID_KEY());
        QueryExecution found = id == null ? null : SQLExecution.getQueryExecution(Long.parseLong(id));
        return found != null && found.analyzed() instanceof InsertIntoHadoopFsRelationCommand ? found : null;
    }

    /** Write a file without rows for each of the inputs: Spark writes one only for the first task without rows. */
    private void writeRowless(JobContext context, Set origins, Set inputs) throws Exception {
        QueryExecution execution = execution();
        if (execution == null || inputs.isEmpty()) {
            return;
        }
        InsertIntoHadoopFsRelationCommand write = (InsertIntoHadoopFsRelationCommand) execution.analyzed();
        if (!write.partitionColumns().isEmpty()) { // without a row there is no partition for the file
            return;
        }
        Job copy = Job.getInstance(context.getConfiguration());
        OutputWriterFactory factory = write.fileFormat().prepareWrite(execution.sparkSession(), copy,
                CaseInsensitiveMap$.MODULE$.apply(write.options()), write.query().schema());
        TaskAttemptContext task = new TaskAttemptContextImpl(copy.getConfiguration(), new TaskAttemptID());
        int number = ROWLESS_TASK;
        for (Object input : inputs) {
            String name = String.format("part-%05d-%s-c000%s", number, job, factory.getFileExtension(task));
            factory.newInstance(folder + "/" + name, write.query().schema(), task).close();
            origins.add(number++ + "\0" + input + "\0" + 0);
        }
    }

    private class Direct extends OutputCommitter {
        public void setupJob(JobContext context) throws IOException {
            Seen.tell(context.getConfiguration(), "output"); // also if the job writes no file
            uncommitted(context).getParentFile().mkdirs();
            uncommitted(context).createNewFile();
        }

        public void commitJob(JobContext context) throws IOException {
            Set origins = (Set) ORIGINS.remove(job);
            if (origins == null) { // the job has no files, but the script must find the folder
                system(context).mkdirs(new Path(folder));
            }
            if (WITH_ROWS.remove(job)) {
                tellSchema(inTask(context, "schemas"));
            }
            File told = inTask(context, "origins"); // only written if the worker has made the folder
            Set rowless = (Set) ROWLESS.remove(job);
            if (origins != null && told.getParentFile().isDirectory()) {
                File empty = new File(told.getParentFile(), "../empty"); // if it exists: the keys of inputs of 0 bytes
                if (empty.exists()) {
                    Set inputs = new TreeSet(Arrays.asList(Files.readString(empty.toPath()).split("\0")));
                    inputs.addAll(rowless == null ? Collections.EMPTY_SET : rowless);
                    inputs.remove("");
                    for (Object origin : origins) { // an input needs no further file if one of its tasks has a file
                        inputs.remove(((String) origin).split("\0")[1]);
                    }
                    try {
                        writeRowless(context, origins, inputs);
                    } catch (Exception error) {
                        throw new IOException("inputs without rows have no file: " + error, error);
                    }
                }
                Files.writeString(told.toPath(), String.join("\0", origins));
            }
            uncommitted(context).delete();
        }

        public void abortJob(JobContext context, JobStatus.State state) throws IOException {
            try {
                for (RemoteIterator each = system(context).listFiles(new Path(folder), true); each.hasNext();) {
                    Path file = ((FileStatus) each.next()).getPath();
                    if (file.getName().contains(job)) {
                        system(context).delete(file, false);
                    }
                }
            } catch (FileNotFoundException nothing) {
                return;
            }
        }

        public void setupTask(TaskAttemptContext context) { }

        /** Spark calls this for each task, so the inputs of tasks without a file are recorded here. */
        public boolean needsTaskCommit(TaskAttemptContext context) {
            Set opened = files.isEmpty() && TaskContext.get() != null ? TaskS3A.opened(TaskContext.get())
                    : Collections.EMPTY_SET;
            if (opened.size() == 1) {
                ROWLESS.putIfAbsent(job, ConcurrentHashMap.newKeySet());
                ((Set) ROWLESS.get(job)).addAll(opened);
            }
            return false;
        }

        public void commitTask(TaskAttemptContext context) { }

        /** Delete the task's files, which have become visible when they were closed, perhaps after the job's end. */
        public void abortTask(TaskAttemptContext context) throws IOException {
            for (Object file : files) {
                system(context).delete((Path) file, false);
            }
        }

        private FileSystem system(JobContext context) throws IOException {
            return new Path(folder).getFileSystem(context.getConfiguration());
        }

        private File uncommitted(JobContext context) {
            return inTask(context, "uncommitted");
        }

        private File inTask(JobContext context, String folder) {
            return new File(context.getConfiguration().get("sparklet.task"), folder + "/" + job);
        }
    }
}
