import java.io.File;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkContext;

/**
 * Access to Spark's private fields that a kept context needs, also where Spark 3.5 and 4.1 differ.
 */
public class SparkInsides {
    private static final String[] SESSIONS = { // of Spark 4.1, of Spark 3.5; the first one that exists is used
        "org.apache.spark.sql.classic.SparkSession", "org.apache.spark.sql.SparkSession"
    };

    private final SparkContext context;

    public SparkInsides(SparkContext context) {
        this.context = context;
    }

    /** The entries of a configuration, to be changed in place. */
    public static Map settings(SparkConf conf) throws Exception {
        return (Map) JvmState.field(SparkConf.class, "settings").get(conf);
    }

    /** The folder in which the block manager's folders are. */
    public File localDir() {
        return context.env().blockManager().diskBlockManager().localDirs()[0].getParentFile();
    }

    /** Add all files and folders below a folder to ``found``. */
    public static void collect(File folder, Set found) {
        File[] inside = folder.listFiles();
        for (int i = 0; inside != null && i < inside.length; i++) {
            found.add(inside[i]);
            if (!java.nio.file.Files.isSymbolicLink(inside[i].toPath())) {
                collect(inside[i], found);
            }
        }
    }

    /** The names of the endpoints to which messages can be sent. */
    public Set endpoints() throws Exception {
        return ((Map) JvmState.field(dispatcher().getClass(), "endpoints").get(dispatcher())).keySet();
    }

    /** The endpoints that receive messages. */
    public Set receivers() throws Exception {
        return ((Map) JvmState.field(dispatcher().getClass(), "endpointRefs").get(dispatcher())).keySet();
    }

    private Object dispatcher() throws Exception {
        return JvmState.field(context.env().rpcEnv().getClass(), "dispatcher").get(context.env().rpcEnv());
    }

    /** Spark's records of jobs and stages, by their class. */
    public Map records() throws Exception {
        Object store = JvmState.field(store().getClass(), "store").get(store());
        Object lists = JvmState.field(store.getClass(), "inMemoryLists").get(store);
        return (Map) JvmState.field(lists.getClass(), "data").get(lists);
    }

    /** The classes of records for whose growth there are callbacks; each session adds one. */
    public Set triggers() throws Exception {
        scala.collection.mutable.HashMap found =
                (scala.collection.mutable.HashMap) JvmState.field(store().getClass(), "triggers").get(store());
        return scala.collection.JavaConverters$.MODULE$.mutableMapAsJavaMap(found).keySet();
    }

    /** The callbacks for the end of the store; each session adds one. */
    public scala.collection.mutable.ListBuffer flushTriggers() throws Exception {
        return (scala.collection.mutable.ListBuffer) JvmState.field(store().getClass(), "flushTriggers").get(store());
    }

    /** Whether Spark's own listener has jobs or tasks that have begun, but whose end it has not received. */
    public boolean awaitsEnds() throws Exception {
        Object listener = context.statusStore().listener().get();
        return !liveIn(listener, "liveJobs").isEmpty() || !liveIn(listener, "liveTasks").isEmpty();
    }

    private static scala.collection.mutable.HashMap liveIn(Object listener, String name) throws Exception {
        return (scala.collection.mutable.HashMap) JvmState.field(listener.getClass(), name).get(listener);
    }

    /** The flag that a session has registered its listener with the context, which is done once for each context. */
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
