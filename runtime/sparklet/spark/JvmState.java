import java.lang.reflect.Field;
import java.lang.reflect.Method;
import java.util.*;
import java.util.logging.LogManager;
import java.util.logging.Logger;

/**
 * State that a script can change for the whole JVM, besides its context. It is recorded before the first script, and
 * checked after each.
 *
 * Settings are restored. Other state cannot be restored, since libraries set it once when they are loaded, or Java only
 * reads it then: if a script has changed it, the JVM is replaced. Additions to the end of a list are allowed to stay.
 */
public class JvmState {
    private static final String[] SETTINGS = { // in each text, a class and its static fields
        "java.lang.Thread defaultUncaughtExceptionHandler", "java.net.ProxySelector theProxySelector",
        "java.net.Authenticator theAuthenticator", "java.net.CookieHandler cookieHandler",
        "java.net.HttpURLConnection followRedirects", "java.net.ResponseCache theResponseCache",
        "java.net.URLConnection defaultAllowUserInteraction defaultUseCaches",
        "java.sql.DriverManager loginTimeout logWriter logStream", "javax.net.ssl.SSLContext defaultContext",
        "javax.net.ssl.HttpsURLConnection defaultHostnameVerifier defaultSSLSocketFactory",
    };
    private static final String[][] LISTS = {
        {"sun.security.jca.Providers", "providerList"}, {"java.sql.DriverManager", "registeredDrivers"},
    };
    private static final String OF_HADOOP = "(core|hdfs|mapred|yarn|hive|hbase)(-\\w+)?-(default|site)\\.xml,? ?";
    private static final String DIALECTS = "org.apache.spark.sql.jdbc.JdbcDialects$";
    private static final String FUNCTIONS = "org.apache.spark.sql.catalyst.analysis.";
    private static final int MOST_NEW_THREADS = 150, MOST_OF_A_NAME = 16; // Spark's own daemon threads come and go

    private final Map settings = new HashMap(); // by field
    private final java.io.InputStream in = System.in;
    private final java.io.PrintStream out = System.out, err = System.err;
    private final Properties properties = (Properties) System.getProperties().clone();
    private final Locale locale = Locale.getDefault();
    private final Map fixed;
    private final int threads;
    private final String[] lists = {"", ""}; // the lists as text after the last task, without the closing bracket

    public JvmState() throws Exception {
        for (String each : SETTINGS) {
            String[] words = each.split(" ");
            for (int j = 1; j < words.length; j++) {
                Field setting = field(Class.forName(words[0]), words[j]);
                settings.put(setting, setting.get(null));
            }
        }
        fixed = fixed();
        threads = threads().length;
        changed();
    }

    /** Restore the settings. Return why the JVM must be replaced nevertheless, or "". */
    public String restore() throws Exception {
        String problem = changed();
        for (Iterator each = settings.entrySet().iterator(); each.hasNext();) {
            Map.Entry setting = (Map.Entry) each.next();
            ((Field) setting.getKey()).set(null, setting.getValue());
        }
        System.setIn(in);
        System.setOut(out);
        System.setErr(err);
        System.setProperties((Properties) properties.clone());
        Locale.setDefault(locale);
        TimeZone.setDefault(null); // back to user.timezone, else the machine's
        return problem;
    }

    private String changed() throws Exception {
        for (int i = 0; i < LISTS.length; i++) {
            String list = valueOf(LISTS[i][0], LISTS[i][1]).toString(); // the getter of providers would load them
            if (!list.startsWith(lists[i])) {
                return LISTS[i][1] + " was " + lists[i] + "] and is " + list;
            }
            lists[i] = list.substring(0, list.length() - 1);
        }
        for (Iterator each = fixed().entrySet().iterator(); each.hasNext();) {
            Map.Entry found = (Map.Entry) each.next();
            if (!found.getValue().equals(fixed.get(found.getKey()))) {
                return found.getKey() + " were changed";
            }
        }
        List names = new ArrayList(); // of all threads, without numbers; "" for daemons, which do not keep a JVM alive
        for (Thread thread : threads()) {
            String name = thread.isDaemon() ? "" : thread.getName().replaceAll("\\d+", "#");
            names.add(name);
            if (!name.isEmpty() && Collections.frequency(names, name) > MOST_OF_A_NAME) {
                return "threads " + name + " were left in it";
            }
        }
        return names.size() - threads > MOST_NEW_THREADS ? names.size() + " threads are in it" : "";
    }

    private static Map fixed() throws Exception {
        Map found = new HashMap();
        found.put("security properties", valueOf("java.security.Security", "props").toString());
        found.put("properties of TLS", new TreeMap(System.getProperties()).subMap("javax.net.", "javax.net/"));
        found.put("loggers of java.util.logging", loggers());
        found.put("static hosts", valueOf("org.apache.hadoop.net.NetUtils", "hostToResolved").toString());
        Object resources = valueOf("org.apache.hadoop.conf.Configuration", "defaultResources");
        found.put("default resources", resources.toString().replaceAll(OF_HADOOP, "")); // Hadoop's classes add their own
        found.put("Spark's functions", Boolean.valueOf(hasAll("FunctionRegistry$", "expressions")));
        found.put("Spark's table functions", Boolean.valueOf(hasAll("TableFunctionRegistry$", "logicalPlans")));
        found.put("JDBC dialects", field(Class.forName(DIALECTS), "dialects").get(valueOf(DIALECTS, "MODULE$")));
        return found;
    }

    /** The settings of all java.util.logging loggers that do not have the defaults. */
    private static String loggers() {
        Set found = new TreeSet();
        for (Enumeration each = LogManager.getLogManager().getLoggerNames(); each.hasMoreElements();) {
            Logger logger = Logger.getLogger((String) each.nextElement());
            String set = "" + logger.getLevel() + logger.getFilter() + logger.getUseParentHandlers()
                    + Arrays.asList(logger.getHandlers());
            if (!set.equals("nullnulltrue[]")) {
                found.add(logger.getName() + set);
            }
        }
        return found.toString();
    }

    /** Whether a registry still has all functions that Spark has defined. */
    private static boolean hasAll(String registry, String defined) throws Exception {
        if (!isLoaded(FUNCTIONS + registry)) {
            return true;
        }
        Object module = valueOf(FUNCTIONS + registry, "MODULE$");
        Object builtin = field(module.getClass(), "builtin").get(module);
        Method builders = builtin.getClass().getMethod("functionBuilders", new Class[0]);
        scala.collection.Map found = (scala.collection.Map) builders.invoke(builtin, new Object[0]);
        scala.collection.Map all = (scala.collection.Map) field(module.getClass(), defined).get(module);
        return all.values().toSet().subsetOf(found.values().toSet());
    }

    /** Whether a class is loaded; the check itself does not load it. */
    public static boolean isLoaded(String name) throws Exception {
        Method find = ClassLoader.class.getDeclaredMethod("findLoadedClass", new Class[] {String.class});
        find.setAccessible(true);
        return find.invoke(ClassLoader.getSystemClassLoader(), new Object[] {name}) != null;
    }

    /** All living threads. Thread.getAllStackTraces would also get their stacks, for which it halts all threads. */
    public static Thread[] threads() throws Exception {
        Method all = Thread.class.getDeclaredMethod("getThreads", new Class[0]);
        all.setAccessible(true);
        return (Thread[]) all.invoke(null, new Object[0]);
    }

    public static Field field(Class type, String name) throws Exception {
        Field found = type.getDeclaredField(name);
        found.setAccessible(true);
        return found;
    }

    private static Object valueOf(String type, String name) throws Exception {
        return field(Class.forName(type), name).get(null);
    }
}
