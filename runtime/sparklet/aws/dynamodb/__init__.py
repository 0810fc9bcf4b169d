"""The ledger in one DynamoDB table."""

from sparklet.aws.dynamodb.ledger import DynamoLedger
from sparklet.aws.dynamodb.table import OPEN_INDEX, table_definition
from sparklet.aws.dynamodb.tasks import DynamoTasks

__all__ = ["OPEN_INDEX", "DynamoLedger", "DynamoTasks", "table_definition"]
