import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.catalyst.analysis.UnresolvedRelation;
import org.apache.spark.sql.catalyst.catalog.SessionCatalog;
import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan;
import org.apache.spark.sql.catalyst.plans.logical.SubqueryAlias$;
import org.apache.spark.sql.catalyst.plans.logical.View;
import org.apache.spark.sql.catalyst.rules.Rule;
import org.apache.spark.sql.catalyst.trees.TreeNode;

/**
 * Puts the rows of Glue's tables in the place of their names, by a rule that sees what Spark itself could not find.
 *
 * The rows are global views, which connectors/data_catalog/spark_names.py makes: no script lists these by accident, and
 * they end with the session.
 */
public class CatalogNames extends scala.runtime.AbstractFunction1 {
    private static final String PREFIX = "glue "; // of a view's name, before DATABASE.TABLE
    private static final String CATALOG = "spark_catalog";

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
            return (TreeNode) ((LogicalPlan) plan).resolveOperators(new Replacement(session));
        }
    }

    public static class Replacement extends scala.runtime.AbstractPartialFunction {
        private final SparkSession session;

        Replacement(SparkSession session) {
            this.session = session;
        }

        public boolean isDefinedAt(Object plan) {
            return plan instanceof UnresolvedRelation && view((UnresolvedRelation) plan).isDefined();
        }

        public Object apply(Object plan) {
            String[] words = name((UnresolvedRelation) plan);
            // As Spark calls a table of its own: its columns may be named by it, its database and its catalog.
            return SubqueryAlias$.MODULE$.apply(scala.collection.immutable.Nil$.MODULE$
                    .$colon$colon(words[1]).$colon$colon(words[0]).$colon$colon(CATALOG),
                    (View) view((UnresolvedRelation) plan).get());
        }

        private scala.Option view(UnresolvedRelation relation) {
            String[] words = name(relation);
            boolean isOurs = words.length == 2 && !relation.isStreaming()
                    && CATALOG.equals(session.sessionState().catalogManager().currentCatalog().name());
            SessionCatalog catalog = session.sessionState().catalog();
            return isOurs ? catalog.getGlobalTempView(PREFIX + String.join(".", words).toLowerCase())
                    : scala.Option.empty();
        }

        /** DATABASE and TABLE; of another catalog's more words. */
        private String[] name(UnresolvedRelation relation) {
            String text = relation.multipartIdentifier().mkString("\n");
            if (text.indexOf('\n') < 0) {
                text = session.sessionState().catalog().getCurrentDatabase() + "\n" + text;
            }
            return text.replaceFirst("^" + CATALOG + "\n(?=.*\n)", "").split("\n");
        }
    }
}
