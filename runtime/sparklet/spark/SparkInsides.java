import java.io.File;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkContext;

/**
 * What Spark hides and a kept context has to look at, where its lines 3.5 and 4.1 differ, too.
 */
public class SparkInsides {
    private static final String[] SESSIONS = { // the first that there is
        "org.apache.spark.sql.classic.SparkSession", "org.apache.spark.sql.SparkSession" // of 4.1; of 3.5
    };

    private final SparkContext context;

    public SparkInsides(SparkContext context) {
        this.context = context;
    }

    /** The entries of a configuration, to be changed in place. */
    public static Map settings(SparkConf conf) throws Exception {
        return (Map) JvmState.field(SparkConf.class, "settings").get(conf);
    }

    /** Where the block manager's folders are. */
    public File localDir() {
        return context.env().blockManager().diskBlockManager().localDirs()[0].getParentFile();
    }

    /** All files and folders in a folder. */
    public static void collect(File folder, Set found) {
        File[] inside = folder.listFiles();
        for (int i = 0; inside != null && i < inside.length; i++) {
            found.add(inside[i]);
            if (!java.nio.file.Files.isSymbolicLink(inside[i].toPath())) {
                collect(inside[i], found);
            }
        }
    }

    /** The names that messages can be sent to. */
    public Set endpoints() throws Exception {
        return ((Map) JvmState.field(dispatcher().getClass(), "endpoints").get(dispatcher())).keySet();
    }

    /** Who receives messages. */
    public Set receivers() throws Exception {
        return ((Map) JvmState.field(dispatcher().getClass(), "endpointRefs").get(dispatcher())).keySet();
    }

    private Object dispatcher() throws Exception {
        return JvmState.field(context.env().rpcEnv().getClass(), "dispatcher").get(context.env().rpcEnv());
    }

    /** What Spark remembers of jobs and stages, by the class of its records. */
    public Map records() throws Exception {
        Object store = JvmState.field(store().getClass(), "store").get(store());
        Object lists = JvmState.field(store.getClass(), "inMemoryLists").get(store);
        return (Map) JvmState.field(lists.getClass(), "data").get(lists);
    }

    /** The classes of records whose growth somebody wants to know of; each session adds itself. */
    public Set triggers() throws Exception {
        scala.collection.mutable.HashMap found =
                (scala.collection.mutable.HashMap) JvmState.field(store().getClass(), "triggers").get(store());
        return scala.collection.JavaConverters$.MODULE$.mutableMapAsJavaMap(found).keySet();
    }

    /** What is to be done when the store ends; each session adds something. */
    public scala.collection.mutable.ListBuffer flushTriggers() throws Exception {
        return (scala.collection.mutable.ListBuffer) JvmState.field(store().getClass(), "flushTriggers").get(store());
    }

    /** Whether Spark's own listener knows of jobs or tasks that have begun, and not of their end. */
    public boolean awaitsEnds() throws Exception {
        Object listener = context.statusStore().listener().get();
        return !liveIn(listener, "liveJobs").isEmpty() || !liveIn(listener, "liveTasks").isEmpty();
    }

    private static scala.collection.mutable.HashMap liveIn(Object listener, String name) throws Exception {
        return (scala.collection.mutable.HashMap) JvmState.field(listener.getClass(), name).get(listener);
    }

    /** Whether a session has told the context to tell it of its end; each context is told once. */
    public static AtomicBoolean listenerRegistered() throws Exception {
        String name = SESSIONS[0];
        try {
            Class.forName(name);
        } catch (ClassNotFoundException older) {
            name = SESSIONS[1];
        }
        Class type = Class.forName(name + "$");
        return (AtomicBoolean) JvmState.field(type, name.replace('.', '$') + "$$listenerRegistered")
                .get(type.getField("MODULE$").get(null));
    }

    private Object store() {
        return context.statusStore().store();
    }
}
