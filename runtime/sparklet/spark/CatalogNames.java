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
            UnresolvedRelation relation = (UnresolvedRelation) plan;
            scala.collection.immutable.List words = relation.multipartIdentifier().toList();
            return SubqueryAlias$.MODULE$.apply(words, (View) view(relation).get());
        }

        private scala.Option view(UnresolvedRelation relation) {
            SessionCatalog catalog = session.sessionState().catalog();
            String name = relation.multipartIdentifier().mkString(".");
            if (relation.multipartIdentifier().size() == 1) {
                name = catalog.getCurrentDatabase() + "." + name;
            }
            return catalog.getGlobalTempView(PREFIX + name.replaceFirst("^spark_catalog\\.", "").toLowerCase());
        }
    }
}
