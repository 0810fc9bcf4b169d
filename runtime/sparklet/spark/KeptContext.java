import java.io.File;
import java.util.*;
import java.util.concurrent.ThreadPoolExecutor;
import org.apache.hadoop.conf.Configuration;
import org.apache.spark.MapOutputTrackerMaster;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkContext;
import org.apache.spark.SparkContext$;
import org.apache.spark.SparkEnv;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.api.python.PythonWorkerFactory;
import org.apache.spark.deploy.SparkHadoopUtil;
import org.apache.spark.executor.Executor;
import org.apache.spark.scheduler.DAGScheduler;
import org.apache.spark.scheduler.LiveListenerBus;
import org.apache.spark.scheduler.SparkListenerInterface;
import org.apache.spark.scheduler.TaskSchedulerImpl;
import org.apache.spark.scheduler.local.LocalEndpoint;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.storage.BlockId;
import org.apache.spark.storage.BlockManager;
import org.apache.spark.storage.BlockManagerMasterEndpoint;
import org.apache.spark.storage.BlockManagerStorageEndpoint;

/**
 * A SparkContext that outlives its tasks, for Spark versions whose private fields are known (SparkInsides).
 *
 * Each task gets its own values of the settings that Spark reads while it works, of Hadoop's configuration, and of the
 * application's id. All other settings must be the same: a script with others gets a new context. After a task the
 * context is cleaned, and it is verified to be clean; if it cannot be verified, the context is stopped.
 */
public class KeptContext implements WarmJvm.Keeper {
    private static final String[] EXCHANGED = { // prefixes of settings that Spark reads while it works, or only scripts
        "spark.sql.", "spark.hadoop.", "spark.executorEnv.", "spark.databricks.", "spark.app.", "spark.default.parallelism",
        "spark.submit.pyFiles"
    };
    private static final int POOL_THREADS = 4;
    private static final long WAIT_MS = 1000; // how long Spark's own threads can take for the rest of a finished job

    private final File home; // the JVM's folder: files outside must not be deleted
    private SparkInsides insides; // of the kept context, as is the executor
    private Executor executor;
    private SparkContext context; // null if none is kept
    private boolean taken;
    private String problem = "";
    private Map fixed; // the settings that only a new context could change
    private Map added; // the settings that Spark itself adds to the given ones
    private Configuration hadoop; // Hadoop's configuration without a task's settings
    private Set listeners, endpoints, records, triggers, files; // what Spark had when the context was made
    private int flushes;
    private long releasedMs; // by the time of day, since a freeze stops all other clocks

    public KeptContext(String home) {
        this.home = new File(home);
    }

    public synchronized JavaSparkContext acquire(SparkConf conf) throws Exception {
        if (taken || SparkContext$.MODULE$.getActive().isDefined()) {
            return new JavaSparkContext(conf); // Spark throws its own error for a second context
        }
        Map wanted = entries(conf);
        if (context != null && (context.isStopped() || !fixed.equals(fixedIn(wanted)) || hasLostTouch())) {
            stop();
        }
        if (context == null) {
            make(conf, wanted);
        } else {
            configure(wanted);
            SparkContext$.MODULE$.setActiveContext(context);
        }
        taken = true;
        return new JavaSparkContext(context);
    }

    public synchronized void release() throws Exception {
        if (!taken) {
            return;
        }
        problem = "it was not looked at";
        try {
            problem = context.isStopped() ? "the script stopped it" : isBusy() ? "a job was left" : cleaned();
        } catch (Exception error) { // after any error the context cannot be verified, and is not kept
            problem = error.toString();
        } finally {
            if (!problem.isEmpty()) {
                stop();
            }
        }
        taken = false;
        releasedMs = System.currentTimeMillis();
        SparkContext$.MODULE$.clearActiveContext(); // as in a new JVM, there is no active context
    }

    public String problem() {
        return problem;
    }

    public void stop() throws Exception {
        SparkContext old = context;
        context = null;
        taken = false;
        problem = problem.isEmpty() ? "it had to be stopped" : problem;
        if (old != null) {
            if (!old.isStopped()) {
                old.cancelAllJobs();
                old.stop();
            }
            org.apache.spark.util.Utils$.MODULE$.clearLocalRootDirs();
        }
    }

    public boolean isTaken() {
        return taken;
    }

    public boolean isBusy() {
        SparkContext kept = context;
        return kept != null && !kept.isStopped() && kept.dagScheduler().jobIdToActiveJob().nonEmpty();
    }

    public boolean isEmpty() {
        return context == null;
    }

    public boolean holds(Object other) {
        return other == context;
    }

    /** Whether another context has replaced its environment, or it was frozen for longer than its timeouts allow. */
    private boolean hasLostTouch() {
        if (SparkEnv.get() != context.env()) {
            return true;
        }
        long timeoutMs = context.conf().getTimeAsMs("spark.network.timeout", "120s");
        return System.currentTimeMillis() - releasedMs > timeoutMs / 2;
    }

    private void make(SparkConf conf, Map wanted) throws Exception {
        context = new SparkContext(conf);
        insides = new SparkInsides(context);
        lookAround();
        fixed = fixedIn(wanted);
        added = entries(context.conf());
        added.keySet().removeAll(wanted.keySet());
        listeners = Collections.newSetFromMap(new IdentityHashMap());
        listeners.addAll(context.listenerBus().listeners());
        endpoints = new HashSet(insides.endpoints());
        records = new HashSet(insides.records().keySet());
        triggers = new HashSet(insides.triggers());
        flushes = insides.flushTriggers().size();
        files = new HashSet();
        SparkInsides.collect(insides.localDir(), files);
    }

    /** Change the context as if it had been made with this configuration. */
    private void configure(Map wanted) throws Exception {
        Map settings = SparkInsides.settings(context.conf());
        Map all = new HashMap(added);
        all.putAll(wanted);
        long nowMs = Math.max(System.currentTimeMillis(), context.startTime() + 1);
        all.put("spark.app.id", "local-" + nowMs);
        all.put("spark.app.startTime", String.valueOf(nowMs));
        settings.putAll(all);
        settings.keySet().retainAll(all.keySet());
        JvmState.field(SparkContext.class, "_applicationId").set(context, "local-" + nowMs);
        JvmState.field(SparkContext.class, "startTime").set(context, Long.valueOf(nowMs));
        JvmState.field(SparkContext.class, "_hadoopConfiguration").set(context, hadoopOf(context.conf()));
        JvmState.field(SparkContext.class, "localProperties").set(context, freshProperties());
        context.checkpointDir_$eq(scala.Option.empty());
        context.executorEnvs().clear();
    }

    private Configuration hadoopOf(SparkConf conf) throws Exception {
        if (hadoop == null) {
            hadoop = SparkHadoopUtil.get().newConfiguration(new SparkConf(false));
            hadoop.size(); // reads its files now, so that not each copy reads them
            // Without the file names of its 1,300 values, which would be a part of each broadcast.
            JvmState.field(Configuration.class, "updatingResource").set(hadoop, null);
        }
        Configuration own = new Configuration(hadoop);
        SparkHadoopUtil.get().appendS3AndSparkHadoopHiveConfigurations(conf, own);
        return own;
    }

    /** New local properties: otherwise threads of pools would keep those of the task that started them. */
    private Object freshProperties() throws Exception {
        java.lang.reflect.Constructor made = Class.forName("org.apache.spark.SparkContext$$anon$1")
                .getDeclaredConstructor(new Class[] {SparkContext.class});
        made.setAccessible(true);
        return made.newInstance(new Object[] {context});
    }

    /** Clean the context. Return why it is not clean nevertheless, or "". */
    private String cleaned() throws Exception {
        if (context.ui().isDefined()) {
            return "its pages remember sessions";
        } else if (context.addedFiles().nonEmpty() || context.addedJars().nonEmpty()
                || context.addedArchives().nonEmpty()) {
            return "files were added";
        } else if (!endpoints.equals(insides.endpoints())) {
            return "it has got endpoints, as streams need"; // whose content cannot be verified
        }
        SparkEnv env = context.env();
        if (env.blockManager().diskBlockManager().localDirs().length > 1 || !insides.localDir().equals(home)) {
            return "its blocks are not in the JVM's folder";
        }
        await();
        endPythonWorkers(env);
        removeBlocks(env);
        removeListeners(context.listenerBus());
        forgetSessions();
        insides.records().keySet().retainAll(records);
        insides.triggers().retainAll(triggers);
        insides.flushTriggers().trimEnd(insides.flushTriggers().size() - flushes);
        configure(Collections.emptyMap());
        return leftIn(env);
    }

    private void removeListeners(LiveListenerBus bus) throws Exception {
        for (long giveUp = System.nanoTime() + WAIT_MS * 1000000; !hasToldAll(bus); Thread.sleep(1)) {
            if (System.nanoTime() > giveUp) {
                throw new IllegalStateException("its listeners were not told of all ends");
            }
        }
        for (Iterator each = bus.listeners().iterator(); each.hasNext();) {
            SparkListenerInterface listener = (SparkListenerInterface) each.next();
            if (!listeners.contains(listener)) {
                bus.removeListener(listener);
            }
        }
    }

    /** Whether listeners have received the end of all jobs; when a job fails, its caller learns of it before them. */
    private boolean hasToldAll(LiveListenerBus bus) throws Exception {
        try {
            bus.waitUntilEmpty(-1); // without waiting, since it would only check every 10 ms
        } catch (java.util.concurrent.TimeoutException notYet) {
            return false;
        }
        return !insides.awaitsEnds();
    }

    /** Wait for tasks that a job no longer needed, such as those of a query with a limit. */
    private void await() throws Exception {
        long giveUp = System.nanoTime() + WAIT_MS * 1000000;
        while (hasTasks() && System.nanoTime() < giveUp) {
            Thread.sleep(1);
        }
    }

    private boolean hasTasks() {
        return executor.numRunningTasks() > 0
                || !((TaskSchedulerImpl) context.taskScheduler()).taskIdToTaskSetManager().isEmpty();
    }

    /** Find the executor, which Spark only reaches by messages, and make Spark's pools of threads smaller. */
    private void lookAround() throws Exception {
        executor = null; // it stays null if Spark is not local: then no context can be verified
        for (Iterator each = insides.receivers().iterator(); each.hasNext();) {
            Object endpoint = each.next();
            if (endpoint instanceof LocalEndpoint) {
                executor = ((LocalEndpoint) endpoint).org$apache$spark$scheduler$local$LocalEndpoint$$executor();
            } else if (endpoint instanceof BlockManagerStorageEndpoint) {
                shrink(JvmState.field(endpoint.getClass(), "asyncThreadPool").get(endpoint));
            } else if (endpoint instanceof BlockManagerMasterEndpoint) {
                shrink(JvmState.field(endpoint.getClass(), "askThreadPool").get(endpoint));
            }
        }
    }

    /** Let a pool start a new thread only if all are busy, not for each of its first hundred tasks. */
    private static void shrink(Object pool) {
        ((ThreadPoolExecutor) pool).setCorePoolSize(POOL_THREADS);
    }

    private void endPythonWorkers(SparkEnv env) throws Exception {
        scala.collection.mutable.HashMap factories =
                (scala.collection.mutable.HashMap) JvmState.field(SparkEnv.class, "pythonWorkers").get(env);
        if (factories.isEmpty()) {
            return;
        }
        synchronized (env) {
            for (scala.collection.Iterator each = factories.valuesIterator(); each.hasNext();) {
                ((PythonWorkerFactory) each.next()).stop();
            }
            factories.clear();
        }
        for (Thread thread : JvmState.threads()) {
            if (thread.getName().startsWith("Idle Worker Monitor for ")) { // this thread would never end
                thread.setUncaughtExceptionHandler(new Silence());
                thread.interrupt();
            }
        }
    }

    /** Remove blocks directly, not by messages to the block manager, each of which would start threads. */
    private void removeBlocks(SparkEnv env) throws Exception {
        MapOutputTrackerMaster tracker = (MapOutputTrackerMaster) env.mapOutputTracker();
        for (scala.collection.Iterator each = tracker.shuffleStatuses().keysIterator(); each.hasNext();) {
            int shuffle = ((Integer) each.next()).intValue();
            env.shuffleManager().unregisterShuffle(shuffle);
            tracker.unregisterShuffle(shuffle);
        }
        BlockManager blocks = env.blockManager();
        for (scala.collection.Iterator each = blocks.blockInfoManager().entries(); each.hasNext();) {
            blocks.removeBlock((BlockId) ((scala.Tuple2) each.next())._1(), true);
        }
        for (scala.collection.Iterator each = context.persistentRdds().keysIterator(); each.hasNext();) {
            context.unpersistRDD(((Integer) each.next()).intValue(), true);
        }
        env.broadcastManager().cachedValues().clear();
        env.hadoopJobMetadata().clear();
        deleteNewIn(insides.localDir());
    }

    private void forgetSessions() throws Exception {
        SparkSession.clearActiveSession();
        SparkSession.clearDefaultSession();
        SparkInsides.listenerRegistered().set(false);
        org.apache.spark.sql.execution.columnar.InMemoryRelation$.MODULE$.clearSerializer();
        org.apache.spark.util.AccumulatorContext.clear();
    }

    private String leftIn(SparkEnv env) throws Exception {
        DAGScheduler scheduler = context.dagScheduler();
        if (scheduler.jobIdToActiveJob().nonEmpty() || scheduler.stageIdToStage().nonEmpty() || hasTasks()) {
            return "jobs are left";
        } else if (((MapOutputTrackerMaster) env.mapOutputTracker()).shuffleStatuses().nonEmpty()
                || context.persistentRdds().nonEmpty() || env.blockManager().blockInfoManager().size() > 0) {
            return "blocks are left";
        } else if (env.memoryManager().storageMemoryUsed() > 0 || env.memoryManager().executionMemoryUsed() > 0) {
            return "memory is in use";
        } else if (context.listenerBus().listeners().size() != listeners.size()) {
            return "listeners are left";
        }
        Set left = new HashSet();
        SparkInsides.collect(insides.localDir(), left);
        left.removeAll(files);
        for (Iterator each = left.iterator(); each.hasNext();) {
            File file = (File) each.next();
            if (!file.isDirectory()) {
                return file + " is left";
            }
        }
        return "";
    }

    /** Delete new files and folders, except the folders that Spark's block manager has made and expects. */
    private void deleteNewIn(File folder) throws Exception {
        File blocks = context.env().blockManager().diskBlockManager().localDirs()[0];
        File[] inside = folder.listFiles();
        for (int i = 0; inside != null && i < inside.length; i++) {
            if (inside[i].isDirectory() && !java.nio.file.Files.isSymbolicLink(inside[i].toPath())) {
                deleteNewIn(inside[i]);
            }
            boolean known = files.contains(inside[i]) || (inside[i].isDirectory() && folder.equals(blocks));
            if (!known) {
                inside[i].delete();
                org.apache.spark.util.ShutdownHookManager$.MODULE$.removeShutdownDeleteDir(inside[i]);
            }
        }
    }

    private static Map fixedIn(Map entries) {
        Map found = new HashMap(entries);
        for (Iterator each = found.keySet().iterator(); each.hasNext();) {
            if (isExchanged((String) each.next())) {
                each.remove();
            }
        }
        return found;
    }

    private static boolean isExchanged(String key) {
        for (String prefix : EXCHANGED) {
            if (key.startsWith(prefix)) {
                return true;
            }
        }
        return !key.startsWith("spark.");
    }

    private static Map entries(SparkConf conf) throws Exception {
        return new HashMap(SparkInsides.settings(conf));
    }

    /** Keeps the exception of an interrupted thread out of the log. */
    static class Silence implements Thread.UncaughtExceptionHandler {
        public void uncaughtException(Thread thread, Throwable error) {
        }
    }
}
