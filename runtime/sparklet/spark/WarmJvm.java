import java.lang.management.*;
import java.lang.reflect.Field;
import java.util.*;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.security.UserGroupInformation;
import org.apache.logging.log4j.LogManager;
import org.apache.logging.log4j.core.LoggerContext;
import org.apache.logging.log4j.core.config.Configurator;
import org.apache.logging.log4j.core.config.LoggerConfig;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkContext;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.sql.SparkSession;

/**
 * Prepares a warm JVM for a task and cleans it afterwards, so that each task finds the JVM like a new one.
 *
 * The worker compiles this with Janino, which is a part of Spark and does not support generics. The object is Py4J's
 * entry point: the worker calls it by its own connection, a script's process only for the script's context.
 */
public class WarmJvm {
    private static final double FULL_HEAP = 0.8;
    private static final long QUIET_LIMIT_MS = 8000;
    private static final long CALLS_LIMIT_MS = 500; // how long connections of an ended process can take to end
    private static final long POLL_MS = 1;
    private static final String HUDI_DEFAULTS =
            "org.apache.hudi.common.config.DFSPropertiesConfiguration$GlobalPropsHolder";
    private static final String[][] RANDOM_STATES = { // a class, its static field, and perhaps a field of its value
        {"java.util.Random", "seedUniquifier"},
        {"java.util.Collections", "r"},
        {"java.util.SplittableRandom", "defaultGen"},
        {"java.util.UUID$Holder", "numberGenerator"},
        {"java.util.concurrent.ThreadLocalRandom", "seeder"},
        {"java.lang.Math$RandomNumberGeneratorHolder", "randomNumberGenerator"},
        {"scala.util.Random$", "MODULE$"},
        {"org.apache.spark.util.Utils$", "MODULE$", "random"},
        {"org.apache.spark.internal.io.SparkHadoopWriterUtils$", "MODULE$", "RAND"},
    };
    private static final String CALLS = "calls or Spark tasks of the last script did not end within 8 s";

    private final Object server; // py4j.GatewayServer
    private final py4j.Gateway gateway;
    private final JvmState first; // the state before any task
    private final String user; // for Hadoop; "" if Hadoop finds the user by itself
    private final String loggers;
    private Keeper keeper; // null if each context ends with its task
    private Configuration plain; // Hadoop's configuration from its files alone

    public WarmJvm(py4j.GatewayServer server, String user) throws Exception {
        this.server = server;
        this.gateway = (py4j.Gateway) server.getGateway();
        this.user = user;
        this.first = new JvmState();
        Configurator.reconfigure();
        this.loggers = loggers();
        gateway.getBindings().put("t", this);
    }

    /** Let this keeper keep contexts from now on. */
    public void keep(Keeper keeper) {
        this.keeper = keeper;
    }

    /** Set the task's system properties, from which a SparkConf is made. */
    public void prepare(String task) throws Exception {
        Properties read = new Properties();
        read.load(new java.io.StringReader(task));
        System.getProperties().putAll(read);
    }

    /** Renew the random states, since all environments that are restored from a snapshot have the same. */
    public void reseed(long seed) throws Exception {
        java.util.SplittableRandom seeds = new java.util.SplittableRandom(seed);
        for (String[] place : RANDOM_STATES) {
            Class type = Class.forName(place[0]);
            Object state = null;
            for (int i = 1; i < place.length; i++) {
                state = JvmState.field(type, place[i]).get(state);
                type = state == null ? null : state.getClass(); // null if the object is made at its first use
            }
            if (state instanceof AtomicLong) {
                ((AtomicLong) state).set(seeds.nextLong());
            } else if (state instanceof java.util.Random) {
                ((java.util.Random) state).setSeed(seeds.nextLong());
            } else if (state instanceof scala.util.Random) {
                ((scala.util.Random) state).setSeed(seeds.nextLong());
            }
        }
        Field own = JvmState.field(Thread.class, "threadLocalRandomSeed");
        for (Thread thread : JvmState.threads()) {
            own.setLong(thread, seeds.nextLong());
        }
    }

    /** The context for a script, kept or new. */
    public JavaSparkContext context(SparkConf conf) throws Exception {
        return keeper == null ? new JavaSparkContext(conf) : keeper.acquire(conf);
    }

    /** A whole configuration as one text: key, null character, value, null character, and so on. */
    public String entries(SparkConf conf) {
        StringBuilder all = new StringBuilder();
        for (scala.Tuple2 each : conf.getAll()) {
            all.append(each._1()).append((char) 0).append(each._2()).append((char) 0);
        }
        return all.toString();
    }

    /** Why the last context was not kept; "" if it was. */
    public String problem() {
        return keeper == null ? "none is kept" : keeper.problem();
    }

    /** Called in place of a script's own stop() of its context: clean the context, so that the next one is like new. */
    public void release() throws Exception {
        if (keeper != null && keeper.isTaken()) {
            keeper.release();
        }
    }

    /**
     * Clean the JVM after a task, so that it is as before the task.
     *
     * Returns why the JVM must be replaced nevertheless; "" if it is like new.
     */
    public String clean(boolean keep) throws Exception {
        boolean hive = isRunning("derby.") || isRunning("BoneCP");
        String problem = settle(keep);
        if (!problem.isEmpty()) {
            return problem;
        }
        resetStatics();
        problem = first.restore();
        forget();
        if (hive) {
            return "Hive's metastore stays in a JVM that has opened one";
        }
        return problem.isEmpty() ? fullHeap() : problem;
    }

    /** Release or stop contexts until the script has no context, call or task in the JVM; return a problem, or "". */
    private String settle(boolean keep) throws Exception {
        long begun = now();
        while (true) {
            boolean calm = connections() <= 1 && !isRunning("stream execution thread for ");
            if (keeper != null && keeper.isTaken()) {
                if (!keep || keeper.isBusy() || now() - begun > CALLS_LIMIT_MS) {
                    keeper.stop();
                } else if (calm) {
                    keeper.release();
                }
            }
            scala.Option active = org.apache.spark.SparkContext$.MODULE$.getActive();
            if (active.isDefined() && !(keeper != null && keeper.holds(active.get()))) {
                stop((SparkContext) active.get());
                if (keeper != null) {
                    keeper.stop(); // two contexts have shared Spark's static state
                }
            } else if (calm && (!(keeper == null || keeper.isEmpty()) || !isRunning("Executor task launch worker for task "))) {
                return ""; // the kept context has checked its own threads, which keep their last task's name
            }
            if (now() - begun > QUIET_LIMIT_MS) {
                return CALLS;
            }
            Thread.sleep(POLL_MS);
        }
    }

    private static void stop(SparkContext context) {
        try {
            context.cancelAllJobs();
            context.stop();
        } catch (RuntimeException error) { // the script's own stop() may still be running
            return;
        }
    }

    private int connections() throws Exception {
        return ((List) JvmState.field(py4j.GatewayServer.class, "connections").get(server)).size();
    }

    private void resetStatics() throws Exception {
        SparkSession.clearActiveSession();
        SparkSession.clearDefaultSession();
        if (keeper == null || keeper.isEmpty()) {
            org.apache.spark.util.Utils$.MODULE$.clearLocalRootDirs();
        }
        if (JvmState.isLoaded("org.apache.spark.sql.delta.DeltaLog")) {
            Class type = Class.forName("org.apache.spark.sql.delta.DeltaLog$");
            type.getMethod("clearCache", new Class[0]).invoke(type.getField("MODULE$").get(null), new Object[0]);
        }
        if (JvmState.isLoaded(HUDI_DEFAULTS)) { // scripts can change what Hudi has read: the next task reads it again
            ((AtomicReference) JvmState.field(Class.forName(HUDI_DEFAULTS), "INSTANCE").get(null)).set(null);
        }
        org.apache.hadoop.fs.FileSystem.closeAll(); // a cached one would ignore the next task's settings: see 0023
        org.apache.hadoop.fs.FileSystem.clearStatistics();
        UserGroupInformation.reset();
        if (plain == null) {
            plain = new Configuration();
            plain.size();
        }
        UserGroupInformation.setConfiguration(plain); // otherwise it would read the files again
        if (!user.isEmpty()) {
            UserGroupInformation.setLoginUser(UserGroupInformation.createRemoteUser(user));
        }
        if (!loggers.equals(loggers())) {
            Configurator.reconfigure();
        }
    }

    /** The state of all loggers as a text, for comparison. */
    private static String loggers() {
        LoggerContext context = (LoggerContext) LogManager.getContext(false);
        TreeSet found = new TreeSet();
        for (Iterator each = context.getConfiguration().getLoggers().values().iterator(); each.hasNext();) {
            LoggerConfig logger = (LoggerConfig) each.next();
            found.add(logger.getName() + logger.getLevel() + logger.isAdditive() + logger.getFilter()
                    + new TreeSet(logger.getAppenders().keySet()));
        }
        return System.identityHashCode(context.getConfiguration()) + found.toString();
    }

    /**
     * Drop the objects that the script's proxies referred to (Py4J keeps them if a client just ends), its imports, and
     * what threads of pools have inherited from the threads that started them: Spark's local properties and active
     * session.
     */
    private void forget() throws Exception {
        gateway.getDefaultJVMView().clearImports();
        for (Iterator each = gateway.getBindings().keySet().iterator(); each.hasNext();) {
            if (((String) each.next()).matches("o\\d+")) {
                each.remove();
            }
        }
        Field inherited = JvmState.field(Thread.class, "inheritableThreadLocals");
        for (Thread thread : JvmState.threads()) {
            if (thread != Thread.currentThread()) {
                inherited.set(thread, null);
            }
        }
    }

    /** Java's report on its classes, with "20673 classes (16249 shared)"; "" if this Java has no such report. */
    public String loaded() {
        try {
            return (String) ManagementFactory.getPlatformMBeanServer().invoke(
                    new javax.management.ObjectName("com.sun.management:type=DiagnosticCommand"), "vmMetaspace",
                    new Object[] {new String[] {}}, new String[] {String[].class.getName()});
        } catch (javax.management.JMException unknown) {
            return "";
        }
    }

    private static String fullHeap() {
        MemoryMXBean memory = ManagementFactory.getMemoryMXBean();
        if (share(memory) <= FULL_HEAP) {
            return "";
        }
        System.gc();
        long percent = Math.round(100 * share(memory));
        return share(memory) > FULL_HEAP ? "its heap stays " + percent + "% full" : "";
    }

    private static double share(MemoryMXBean memory) {
        MemoryUsage usage = memory.getHeapMemoryUsage();
        return (double) usage.getUsed() / usage.getMax();
    }

    private static boolean isRunning(String prefix) throws Exception {
        for (Thread thread : JvmState.threads()) {
            if (thread.getName().startsWith(prefix)) {
                return true;
            }
        }
        return false;
    }

    private static long now() {
        return System.nanoTime() / 1000000;
    }

    /** Keeps a context from task to task. */
    public interface Keeper {
        /** A context with this configuration, which is new or like new. */
        JavaSparkContext acquire(SparkConf conf) throws Exception;

        /** Clean the context for the next task; stop it if it cannot be verified to be clean. */
        void release() throws Exception;

        /** Stop the context. */
        void stop() throws Exception;

        /** Whether a script has the context. */
        boolean isTaken();

        /** Whether a job of the script is running. */
        boolean isBusy();

        /** Whether no context is kept. */
        boolean isEmpty();

        /** Why the last context was not kept; "" if it was. */
        String problem();

        /** Whether this is the kept context. */
        boolean holds(Object context);
    }
}
