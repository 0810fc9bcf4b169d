import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.catalyst.CatalystIdentifier;
import org.apache.spark.sql.catalyst.analysis.NoSuchNamespaceException;
import org.apache.spark.sql.catalyst.analysis.ResolvedIdentifier;
import org.apache.spark.sql.catalyst.analysis.ResolvedNamespace;
import org.apache.spark.sql.catalyst.analysis.UnresolvedRelation;
import org.apache.spark.sql.catalyst.analysis.UnresolvedTableOrView;
import org.apache.spark.sql.catalyst.catalog.CatalogTable;
import org.apache.spark.sql.catalyst.catalog.SessionCatalog;
import org.apache.spark.sql.catalyst.plans.logical.*;
import org.apache.spark.sql.catalyst.rules.Rule;
import org.apache.spark.sql.catalyst.trees.TreeNode;
import org.apache.spark.sql.connector.catalog.Identifier;
import org.apache.spark.sql.execution.datasources.CreateTable;
import org.apache.spark.unsafe.Platform;

/**
 * Replaces names of Glue's tables by their rows, by a rule for names that Spark itself could not find; refuses commands
 * that would do more in Glue's databases.
 *
 * The rows are global views that connectors/data_catalog/spark_names.py makes: scripts do not list these by accident,
 * and they end with the session. The module also sets Hadoop options that name Glue's databases.
 */
public class CatalogNames extends scala.runtime.AbstractFunction1 {
    private static final String PREFIX = "glue "; // in a view's name, before DATABASE.TABLE
    // With DATABASE behind: why commands in it are refused, or ""; with DATABASE.TABLE behind: the table's format.
    private static final String OPTION = "sparklet.glue.";
    private static final String CATALOG = "spark_catalog";
    private static final String[] NONE = {};

    /** Spark passes each session. */
    public Object apply(Object session) {
        return new Names((SparkSession) session);
    }

    public static class Names extends Rule {
        private final SparkSession session;

        Names(SparkSession session) {
            this.session = session;
        }

        public TreeNode apply(TreeNode plan) {
            Replacement rows = new Replacement(session);
            LogicalPlan first = plan.children().isEmpty() ? null : (LogicalPlan) plan.children().head();
            if (plan instanceof UpdateTable || plan instanceof DeleteFromTable || plan instanceof MergeIntoTable) {
                while (first instanceof SubqueryAlias) {
                    first = ((SubqueryAlias) first).child();
                }
                if (rows.isDefinedAt(first)) {
                    refuseOthersThanDelta(rows.words(((UnresolvedRelation) first).multipartIdentifier()));
                }
            } else if (plan instanceof RefreshTable && first instanceof UnresolvedTableOrView
                    && rows.view(((UnresolvedTableOrView) first).multipartIdentifier()).isDefined()) {
                return new NoopCommand("REFRESH TABLE", scala.collection.immutable.Nil$.MODULE$); // Python refreshes it
            } else if (plan instanceof Command || plan instanceof CreateTable) {
                refuseInGlue((LogicalPlan) plan);
            }
            return (TreeNode) ((LogicalPlan) plan).resolveOperators(rows);
        }

        /** Refuse changes of other tables than Delta's: Spark would refuse to change the view, without a remedy. */
        private void refuseOthersThanDelta(String[] words) {
            String name = String.join(".", words);
            if (!"delta".equals(session.sparkContext().hadoopConfiguration().get(OPTION + name.toLowerCase()))) {
                refuse(words[0], name, false);
            }
        }

        /** Refuse what Spark's own catalog would do in Glue's databases, since it would be lost with the worker. */
        private void refuseInGlue(LogicalPlan command) {
            boolean isHarmless = command instanceof SetCatalogAndNamespace
                    || command instanceof CreateNamespace && ((CreateNamespace) command).ifNotExists();
            for (scala.collection.Iterator each = command.productIterator(); each.hasNext();) {
                String[] words = named(each.next());
                if (words.length > 0) {
                    refuse(words[0], String.join(".", words), isHarmless);
                }
            }
            try {
                Object database = command.getClass().getMethod("databaseName", new Class[0])
                        .invoke(command, new Object[0]);
                database = database instanceof scala.Some ? ((scala.Some) database).get() : database;
                if (database instanceof String) {
                    refuse((String) database, (String) database, isHarmless);
                }
            } catch (ReflectiveOperationException none) { // only few commands have this method
            }
        }

        /** DATABASE, and TABLE if there is one, of the session's own catalog; empty if the part names none, or a path. */
        private static String[] named(Object part) {
            part = part instanceof CatalogTable ? ((CatalogTable) part).identifier() : part;
            String[] words = NONE;
            if (part instanceof CatalystIdentifier && ((CatalystIdentifier) part).database().isDefined()) {
                words = new String[] {(String) ((CatalystIdentifier) part).database().get(),
                        ((CatalystIdentifier) part).identifier()};
            } else if (part instanceof ResolvedIdentifier
                    && CATALOG.equals(((ResolvedIdentifier) part).catalog().name())) {
                Identifier table = ((ResolvedIdentifier) part).identifier();
                words = table.namespace().length == 1 ? new String[] {table.namespace()[0], table.name()} : NONE;
            } else if (part instanceof ResolvedNamespace
                    && CATALOG.equals(((ResolvedNamespace) part).catalog().name())
                    && ((ResolvedNamespace) part).namespace().size() == 1) {
                words = new String[] {(String) ((ResolvedNamespace) part).namespace().head()};
            }
            return words.length == 2 && words[1].indexOf('/') >= 0 ? NONE : words; // a path, as in delta.`s3://lake/t`
        }

        private void refuse(String database, String name, boolean isHarmless) {
            String refusal = session.sparkContext().hadoopConfiguration().get(OPTION + database.toLowerCase());
            if (refusal == null && !"global_temp".equals(database)
                    && !session.sessionState().catalog().databaseExists(database)) {
                // After this exception Python searches Glue for the database, and repeats the call.
                Platform.throwException(new NoSuchNamespaceException(new String[] {CATALOG, database}));
            }
            if (refusal != null && !refusal.isEmpty() && !isHarmless) {
                throw new UnsupportedOperationException(name + refusal);
            }
        }
    }

    public static class Replacement extends scala.runtime.AbstractPartialFunction {
        private final SparkSession session;

        Replacement(SparkSession session) {
            this.session = session;
        }

        public boolean isDefinedAt(Object plan) {
            return plan instanceof UnresolvedRelation && !((UnresolvedRelation) plan).isStreaming()
                    && view(((UnresolvedRelation) plan).multipartIdentifier()).isDefined();
        }

        public Object apply(Object plan) {
            scala.collection.Seq identifier = ((UnresolvedRelation) plan).multipartIdentifier();
            String[] words = words(identifier);
            // As with Spark's own tables, a column can be named with its table, database and catalog.
            return SubqueryAlias$.MODULE$.apply(scala.collection.immutable.Nil$.MODULE$
                    .$colon$colon(words[1]).$colon$colon(words[0]).$colon$colon(CATALOG),
                    (View) view(identifier).get());
        }

        scala.Option view(scala.collection.Seq identifier) {
            String[] words = words(identifier);
            boolean isOurs = words.length == 2
                    && CATALOG.equals(session.sessionState().catalogManager().currentCatalog().name());
            SessionCatalog catalog = session.sessionState().catalog();
            return isOurs ? catalog.getGlobalTempView(PREFIX + String.join(".", words).toLowerCase())
                    : scala.Option.empty();
        }

        /** DATABASE and TABLE; more words if the name has another catalog. */
        String[] words(scala.collection.Seq identifier) {
            String text = identifier.mkString("\n");
            if (text.indexOf('\n') < 0) {
                text = session.sessionState().catalog().getCurrentDatabase() + "\n" + text;
            }
            return text.replaceFirst("^" + CATALOG + "\n(?=.*\n)", "").split("\n");
        }
    }
}
