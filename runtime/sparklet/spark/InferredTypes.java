import java.io.File;
import java.net.URI;
import java.nio.file.Files;
import java.util.*;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.s3a.Seen;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SaveMode;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.SparkSessionExtensions;
import org.apache.spark.sql.catalyst.catalog.CatalogTable;
import org.apache.spark.sql.catalyst.expressions.Alias;
import org.apache.spark.sql.catalyst.expressions.Attribute;
import org.apache.spark.sql.catalyst.expressions.Cast;
import org.apache.spark.sql.catalyst.expressions.Expression;
import org.apache.spark.sql.catalyst.expressions.GetStructField;
import org.apache.spark.sql.catalyst.expressions.SchemaPruning;
import org.apache.spark.sql.catalyst.plans.logical.Filter;
import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan;
import org.apache.spark.sql.catalyst.plans.logical.Project;
import org.apache.spark.sql.catalyst.rules.Rule;
import org.apache.spark.sql.catalyst.trees.TreeNode;
import org.apache.spark.sql.execution.command.DropTableCommand;
import org.apache.spark.sql.execution.datasources.HadoopFsRelation;
import org.apache.spark.sql.execution.datasources.InsertIntoHadoopFsRelationCommand;
import org.apache.spark.sql.execution.datasources.LogicalRelation;
import org.apache.spark.sql.execution.datasources.SaveIntoDataSourceCommand;
import org.apache.spark.sql.sources.DataSourceRegister;
import org.apache.spark.sql.types.*;

/**
 * Reports the types that a shard's readers infer for its inputs, by a rule that gets each plan when it is optimized.
 *
 * By then a plan only refers to the columns that it needs. For a column without a value Spark infers text, so inferred
 * text is only reported if the column has a value (docs/decisions/0075).
 */
public class InferredTypes extends scala.runtime.AbstractFunction1 {
    private static final scala.collection.immutable.List NONE = scala.collection.immutable.List$.MODULE$.empty();
    private static final int SAMPLE_ROWS = 1000;
    private static final String INSIDE = "\1"; // separates the names in a column's path
    private static final String INFERRED = "\"type\":\"(integer|long|double|boolean|decimal[^\"]*|date|time[^\"]*)\"";
    private static final String[] OF_PLACES = {"path", "paths", "basepath", "__globpaths__"}; // differ for each shard
    private static final Set GUESSED = ConcurrentHashMap.newKeySet(); // digests of JSON readers that infer, with files
    private static final Set FILLED = ConcurrentHashMap.newKeySet(); // text columns with a value, by run and reader
    private static final ThreadLocal LOOKS = new ThreadLocal(); // set while the rule itself makes plans in this thread

    /** Spark passes its extension points first, and later each session. */
    public Object apply(Object given) {
        if (given instanceof SparkSession) {
            return new Look((SparkSession) given);
        }
        ((SparkSessionExtensions) given).injectPreCBORule(this);
        ((SparkSessionExtensions) given).injectResolutionRule(new CatalogNames());
        return scala.runtime.BoxedUnit.UNIT;
    }

    public static class Look extends Rule {
        private final SparkSession session;
        private final Configuration conf;

        Look(SparkSession session) {
            this.session = session;
            this.conf = session.sparkContext().hadoopConfiguration();
        }

        public TreeNode apply(TreeNode plan) {
            try {
                tellPlaces((LogicalPlan) plan);
            } catch (Exception untold) { // the script is then judged without this report
                System.err.println("sparklet: what a query reads and replaces is not known: " + untold);
            }
            if (conf.get("sparklet.attempt") != null && LOOKS.get() == null) { // only for shards
                LOOKS.set(this);
                try {
                    look((LogicalPlan) plan, null, NONE, false, new HashMap());
                } catch (Exception untold) { // types are not compared then, which is no reason for the query to fail
                    System.err.println("sparklet: the types of a reader are not known: " + untold);
                } finally {
                    LOOKS.remove();
                }
            }
            return plan;
        }

        /**
         * Report which local folders are read, which tables in S3 are replaced although no file is deleted, and which
         * tables outside the machine are entered into the session's own catalog, or dropped from it.
         */
        private void tellPlaces(LogicalPlan plan) throws Exception {
            if (plan instanceof LogicalRelation && ((LogicalRelation) plan).relation() instanceof HadoopFsRelation) {
                scala.collection.Iterator roots =
                        ((HadoopFsRelation) ((LogicalRelation) plan).relation()).location().rootPaths().iterator();
                while (roots.hasNext()) {
                    URI root = ((Path) roots.next()).toUri();
                    if ("file".equals(root.getScheme())) {
                        Seen.tell(conf, "read", root.getPath());
                    }
                }
            } else if (plan instanceof SaveIntoDataSourceCommand
                    && ((SaveIntoDataSourceCommand) plan).mode() == SaveMode.Overwrite) {
                Map options = scala.collection.JavaConverters.mapAsJavaMap(
                        ((SaveIntoDataSourceCommand) plan).options());
                String path = Objects.toString(options.get("path"), "");
                boolean isWhole = !options.toString().matches("(?i).*(replacewhere|partitionoverwrite).*");
                if (isWhole && path.matches("s3[an]?://.*")) {
                    Seen.tell(conf, "deleted", path.replaceFirst("^[^/]*//", "").replaceFirst("/+$", ""));
                }
            }
            String kind = plan.getClass().getSimpleName();
            if (kind.matches("Create.*Table.*Command")) {
                CatalogTable table = (CatalogTable) call(plan, "table");
                tellTable("table", table.identifier().unquotedString(), table.storage().locationUri());
            } else if (kind.matches("(Create|Replace)Table(AsSelect)?") && isOfSession(call(plan, "name"))) {
                Object place = call(call(plan, "tableSpec"), "location");
                tellTable("table", call(call(plan, "name"), "identifier").toString(), (scala.Option) place);
            } else if (kind.equals("DropTableCommand")) {
                tellTable("dropped", ((DropTableCommand) plan).tableName().unquotedString(), scala.Option.apply(""));
            } else if (kind.equals("DropTable") && isOfSession(call(plan, "child"))) {
                tellTable("dropped", call(call(plan, "child"), "identifier").toString(), scala.Option.apply(""));
            }
            for (scala.collection.Iterator each = plan.children().iterator(); each.hasNext();) {
                tellPlaces((LogicalPlan) each.next());
            }
        }

        private void tellTable(String what, String name, scala.Option place) throws Exception {
            boolean isOwn = session.sessionState().newHadoopConf().get("hive.metastore.uris", "").isEmpty();
            if (isOwn && place.isDefined() && !place.get().toString().startsWith("file:")) {
                name = name.replace("`", "").replaceFirst("^spark_catalog\\.", "");
                Seen.tell(conf, what, (name.indexOf('.') < 0 ? "default." : "") + name + " " + place.get());
            }
        }

        private static boolean isOfSession(Object name) throws Exception {
            return "ResolvedIdentifier".equals(name.getClass().getSimpleName())
                    && "spark_catalog".equals(call(call(name, "catalog"), "name"));
        }

        private static Object call(Object object, String method) throws Exception {
            return object.getClass().getMethod(method, new Class[0]).invoke(object, new Object[0]);
        }

        /** ``projects`` and ``filters`` are directly above the plan, and name the columns it needs; null: all. */
        private void look(LogicalPlan plan, scala.collection.immutable.List projects,
                scala.collection.immutable.List filters, boolean isText, Map positions) throws Exception {
            if (plan instanceof LogicalRelation && ((LogicalRelation) plan).relation() instanceof HadoopFsRelation) {
                projects = projects == null ? plan.output().toList() : projects;
                Map columns = new TreeMap();
                Set typed = new HashSet();
                collectTyped(projects, isText, typed);
                collectTyped(filters, false, typed);
                scala.collection.Iterator fields = SchemaPruning.identifyRootFields(projects, filters).iterator();
                while (fields.hasNext()) {
                    StructField field = ((SchemaPruning.RootField) fields.next()).field();
                    flatten(field.dataType(), field.name(), columns);
                }
                tell((HadoopFsRelation) ((LogicalRelation) plan).relation(), columns, typed, positions);
            } else if (plan instanceof Project) {
                isText = isText && projects == null;
                projects = ((Project) plan).projectList().toList();
                filters = NONE;
            } else if (plan instanceof Filter) {
                filters = filters.$colon$colon(((Filter) plan).condition());
            } else {
                isText = plan instanceof InsertIntoHadoopFsRelationCommand
                        && nameOf(((InsertIntoHadoopFsRelationCommand) plan).fileFormat()).matches("csv|text");
                projects = null;
                filters = NONE;
            }
            for (scala.collection.Iterator each = plan.children().iterator(); each.hasNext();) {
                look((LogicalPlan) each.next(), projects, filters, isText, positions);
            }
        }

        /** Collect the columns of which the expressions, or whatever uses their values, need more than the text. */
        private static void collectTyped(scala.collection.Seq parts, boolean isText, Set names) {
            for (scala.collection.Iterator each = parts.iterator(); each.hasNext();) {
                Expression part = (Expression) each.next();
                if (part instanceof Attribute && !isText) {
                    names.add(((Attribute) part).name());
                }
                boolean isPassed = isText && (part instanceof Alias || part instanceof GetStructField);
                boolean isCast = part instanceof Cast && part.dataType() instanceof StringType;
                collectTyped(part.children(), isPassed || isCast, names);
            }
        }

        private static String nameOf(Object format) {
            return format instanceof DataSourceRegister ? ((DataSourceRegister) format).shortName() : "";
        }

        /** Write reader, first file, columns and types, separated by null characters. */
        private void tell(HadoopFsRelation relation, Map columns, Set typed, Map positions) throws Exception {
            String format = nameOf(relation.fileFormat());
            Map options = new TreeMap(scala.collection.JavaConverters.mapAsJavaMap(relation.options()));
            options.keySet().removeAll(Arrays.asList(OF_PLACES));
            String[] files = relation.location().inputFiles();
            Integer these = Integer.valueOf((options + Arrays.toString(files)).hashCode());
            if (format.equals("text")) { // other readers infer from lines that they read as text
                if (Arrays.toString(new Throwable().getStackTrace()).contains("JsonDataSource")) {
                    GUESSED.add(these);
                }
                return;
            }
            int position = ((Integer) positions.getOrDefault(format + options, Integer.valueOf(0))).intValue();
            positions.put(format + options, Integer.valueOf(position + 1));
            String reader = "read\0" + format + "\0" + options + position, file = "";
            for (int at = files.length - 1; at >= 0; at--) {
                file = files[at].endsWith("/none") ? file : files[at]; // not TaskS3A's empty files of other partitions
            }
            String name = UUID.nameUUIDFromBytes((reader + columns + typed + these).getBytes("UTF-8")).toString();
            File told = new File(conf.get("sparklet.task"), "schemas/" + name);
            if (columns.isEmpty() || file.isEmpty() || told.exists()) {
                return;
            }
            boolean isGuess = format.equals("csv") && "true".equalsIgnoreCase((String) options.get("inferschema"))
                    || format.equals("json") && (GUESSED.contains(these) || options.containsKey("multiline"));
            if (isGuess) {
                refine(relation, columns, typed, conf.get("sparklet.attempt").split("/")[1] + reader);
            }
            URI uri = URI.create(file);
            String key = Objects.toString(uri.getAuthority(), "") + uri.getPath();
            StringBuilder text = new StringBuilder(reader + "\0" + key);
            for (Iterator each = columns.keySet().iterator(); each.hasNext();) {
                String path = (String) each.next();
                text.append("\0" + path.replace(INSIDE, ".") + "\0" + columns.get(path));
            }
            told.getParentFile().mkdirs();
            Files.writeString(told.toPath(), text);
        }

        /**
         * Drop text columns without a value. Mark types of which only the text is needed, if it is the file's own text.
         *
         * Most columns have a value in the first rows. All rows are read only if a column has none there, or for marks.
         */
        private void refine(HadoopFsRelation relation, Map columns, Set typed, String reader) {
            Map asked = new LinkedHashMap(); // by path, the query on its values as the file has them
            List names = Arrays.asList(relation.dataSchema().fieldNames());
            for (Iterator each = columns.keySet().iterator(); each.hasNext();) {
                String path = (String) each.next(), type = (String) columns.get(path);
                String column = "`" + path.replace("`", "``").replace(INSIDE, "`.`") + "`";
                if (path.matches("(?s).*(\\[\\]|\\{\\}|<>).*") || !names.contains(path.split(INSIDE)[0])) {
                    continue; // content of arrays and maps, and partitions, are reported unchanged
                } else if (type.equals("string") && !FILLED.contains(reader + path)) {
                    asked.put(path, "count(" + column + ") > 0");
                } else if (!typed.contains(path.split(INSIDE)[0]) && !type.matches("struct|array|map|string|binary")) {
                    asked.put(path, "min(" + column + " <=> string(try_cast(" + column + " AS " + type + ")))");
                }
            }
            if (asked.isEmpty()) {
                return;
            }
            StructType texts = (StructType) DataType.fromJson(relation.dataSchema().json().replaceAll(
                    INFERRED, "\"type\":\"string\""));
            Dataset rows = session.baseRelationToDataFrame(relation.copy(
                    relation.location(), relation.partitionSchema(), texts, relation.bucketSpec(), relation.fileFormat(),
                    relation.options(), relation.sparkSession()));
            String[] questions = (String[]) asked.values().toArray(new String[0]);
            Row found = null;
            if (!asked.toString().contains("min(")) {
                found = (Row) rows.coalesce(1).limit(SAMPLE_ROWS).selectExpr(questions).first();
            }
            if (found == null || found.toString().contains("false")) {
                found = (Row) rows.selectExpr(questions).first();
            }
            int at = 0;
            for (Iterator each = asked.keySet().iterator(); each.hasNext(); at++) {
                String path = (String) each.next();
                boolean is = Boolean.TRUE.equals(found.get(at));
                if (!columns.get(path).equals("string")) {
                    columns.put(path, columns.get(path) + (is ? "=" : ""));
                } else if (is) {
                    FILLED.add(reader + path);
                } else {
                    columns.remove(path);
                }
            }
        }

        /** Put a type and all types inside it into ``columns``, by their paths. */
        private static void flatten(DataType type, String path, Map columns) {
            if (!path.isEmpty()) {
                columns.put(path, type instanceof AtomicType ? type.simpleString() : type.typeName());
            }
            if (type instanceof StructType) {
                StructField[] fields = ((StructType) type).fields();
                for (StructField field : fields) {
                    flatten(field.dataType(), path.isEmpty() ? field.name() : path + INSIDE + field.name(), columns);
                }
            } else if (type instanceof ArrayType) {
                flatten(((ArrayType) type).elementType(), path + "[]", columns);
            } else if (type instanceof MapType) {
                flatten(((MapType) type).keyType(), path + "<>", columns);
                flatten(((MapType) type).valueType(), path + "{}", columns);
            }
        }
    }
}
