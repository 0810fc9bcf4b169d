import java.io.File;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.RemoteIterator;
import org.apache.hadoop.fs.s3a.TaskS3A;
import org.apache.hadoop.mapreduce.JobContext;
import org.apache.hadoop.mapreduce.JobStatus;
import org.apache.hadoop.mapreduce.OutputCommitter;
import org.apache.hadoop.mapreduce.TaskAttemptContext;
import org.apache.spark.SparkContext;
import org.apache.spark.SparkEnv;
import org.apache.spark.TaskContext;
import org.apache.spark.internal.io.FileNameSpec;
import org.apache.spark.sql.execution.SQLExecution;
import org.apache.spark.sql.execution.datasources.InsertIntoHadoopFsRelationCommand;
import org.apache.spark.sql.execution.datasources.SQLHadoopMapReduceCommitProtocol;
import org.apache.spark.sql.sources.DataSourceRegister;
import org.apache.spark.util.TaskCompletionListener;

/**
 * Writes files of an attempt's own folder under their final names, which hold the id of Spark's write job.
 *
 * Nobody reads there before the attempt has won, so files need not be hidden first and then renamed, which S3 does by
 * listing, copying and deleting. A job that is not committed has a file of its id in the task's folder: the worker
 * deletes what such a job has written. A job that has written rows leaves their schema there, by which shards of a run
 * are compared. Anywhere else, and where more is asked for, this is Spark's own protocol.
 */
public class AttemptCommit extends SQLHadoopMapReduceCommitProtocol {
    private static final String USUAL = "org.apache.parquet.hadoop.ParquetOutputCommitter";
    private static final Set WITH_ROWS = ConcurrentHashMap.newKeySet(); // jobs of this JVM
    private static final Map ORIGINS = new ConcurrentHashMap(); // by job that has files, of whose rows they are
    private static final Set ELSEWHERE = ConcurrentHashMap.newKeySet(); // jobs that write to a partition's own location
    private final String job, folder;
    private final boolean dynamic;
    private transient boolean direct;
    private transient List files; // of this task

    public AttemptCommit(String job, String folder, boolean dynamic) {
        super(job, folder, dynamic);
        this.job = job;
        this.folder = folder;
        this.dynamic = dynamic;
    }

    public OutputCommitter setupCommitter(TaskAttemptContext context) {
        Configuration conf = context.getConfiguration();
        String own = conf.get("sparklet.attempt", ""); // an event's task has none
        direct = !own.isEmpty() && (folder + "/").contains(own + "/") && !dynamic
                && !SparkEnv.get().conf().get("spark.master", "").contains(",") // tasks are not tried again
                && USUAL.equals(conf.get("spark.sql.sources.outputCommitterClass", USUAL))
                && "file".equals(conf.get("fs.s3a.committer.name", "file"))
                && "NONE".equalsIgnoreCase(conf.get("parquet.summary.metadata.level", "NONE"));
        files = new ArrayList();
        return direct ? new Direct() : super.setupCommitter(context);
    }

    public String newTaskTempFile(TaskAttemptContext context, scala.Option dir, FileNameSpec spec) {
        String file = super.newTaskTempFile(context, dir, spec);
        if (direct) {
            if (files.isEmpty()) { // at the task's end, before that of the job; not all files have rows
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

    /** Of which input a task's rows are: that which it has opened. With none, several or a shuffle nobody can tell. */
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

    /** Spark deletes it at a job's end, for two requests. */
    public Path stagingDir() {
        return direct && !ELSEWHERE.contains(job) ? new Path("file:///proc/none") : super.stagingDir();
    }

    /** Write format, columns and folder, a line each: this thread executes the write's command. */
    private void tellSchema(File file) {
        try {
            String id = SparkContext.getOrCreate().getLocalProperty(SQLExecution.EXECUTION_ID_KEY());
            Object plan = id == null ? null : SQLExecution.getQueryExecution(Long.parseLong(id)).analyzed();
            if (plan instanceof InsertIntoHadoopFsRelationCommand) {
                InsertIntoHadoopFsRelationCommand write = (InsertIntoHadoopFsRelationCommand) plan;
                Object format = write.fileFormat();
                String name = format instanceof DataSourceRegister ? ((DataSourceRegister) format).shortName() : "";
                file.getParentFile().mkdirs();
                Files.writeString(file.toPath(), name + "\n" + write.query().schema().json() + "\n" + folder);
            }
        } catch (Exception untold) { // it is not compared; no write fails for that
            System.err.println("sparklet: the schema of " + folder + " is not known: " + untold);
        }
    }

    private class Direct extends OutputCommitter {
        public void setupJob(JobContext context) throws IOException {
            TaskS3A.mark(context.getConfiguration(), "output"); // also of a job without a file
            uncommitted(context).getParentFile().mkdirs();
            uncommitted(context).createNewFile();
        }

        public void commitJob(JobContext context) throws IOException {
            Set origins = (Set) ORIGINS.remove(job);
            if (origins == null) { // without files; a script still finds the folder
                system(context).mkdirs(new Path(folder));
            }
            if (WITH_ROWS.remove(job)) {
                tellSchema(inTask(context, "schemas"));
            }
            File told = inTask(context, "origins"); // where it is asked for
            if (origins != null && told.getParentFile().isDirectory()) {
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

        public boolean needsTaskCommit(TaskAttemptContext context) {
            return false;
        }

        public void commitTask(TaskAttemptContext context) { }

        /** Its files have just appeared, when its writers were closed; the job may have ended before. */
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
