"""Install: a declaration becomes statements that make its function, triggers and registry row."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.backends.ddl_references import Statement, Table

from ..ledger.install import literal, schema_for_ledger, schema_of_ledger
from . import declaration as declared
from .columns import Columns
from .function import TriggerFunction
from .gathering import NEW_ROWS, OLD_ROWS
from .queries import EventQueries
from .relation import Relation, relation_of
from .standing import (
    FUNCTION_PREFIX,
    drop_functions_sql,
    drop_triggers_sql,
    refuse_others_sql,
    register_sql,
    unregister_sql,
)

if TYPE_CHECKING:
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor

    from .trigger import NotifyTrigger

FUNCTION_SUFFIXES = {
    "insert": "_ins",
    "update": "_upd",
    "delete": "_del",
    "truncate": "_tru",
}
"""By operation. With prefix and a name of 50 bytes that makes 63, the most an identifier has."""
SUFFIX_LENGTH = 4


class TableLiteral(Table):
    """A table reference that stands as the literal of its quoted name."""

    def __str__(self) -> str:
        return literal(super().__str__())


class Creation(Statement):
    """What installs the trigger of a topic."""

    def __init__(self, template: str, *, topic: str, **parts: Any) -> None:
        super().__init__(template, **parts)
        self.topic = topic


def create_statement(
    trigger: NotifyTrigger, model: type[models.Model], schema_editor: BaseDatabaseSchemaEditor
) -> Creation:
    """Everything that installs the trigger, as one deferrable statement."""
    return Compiler(trigger, model, schema_editor).create()


def cancel_creation(
    trigger: NotifyTrigger, model: type[models.Model], schema_editor: BaseDatabaseSchemaEditor
) -> None:
    """Take back what a CreateModel of the same migration has put off: it would be run last."""
    table = model._meta.db_table
    schema_editor.deferred_sql[:] = [
        each
        for each in schema_editor.deferred_sql
        if not (
            isinstance(each, Creation)
            and each.topic == trigger.topic
            and each.references_table(table)
        )
    ]


def remove_statement(
    trigger: NotifyTrigger, model: type[models.Model], schema_editor: BaseDatabaseSchemaEditor
) -> Statement:
    """Everything that takes the trigger away."""
    return Compiler(trigger, model, schema_editor).remove()


class Compiler:
    """The SQL of one declaration on one model in one database."""

    def __init__(
        self,
        trigger: NotifyTrigger,
        model: type[models.Model],
        schema_editor: BaseDatabaseSchemaEditor,
    ) -> None:
        self.trigger = trigger
        self.model = model
        self.editor = schema_editor
        self.quote = schema_editor.connection.ops.quote_name
        self.is_registered = schema_of_ledger(schema_editor.connection) is not None
        self.schema = schema_for_ledger(schema_editor.connection)
        self.ledger = self.quote(self.schema)

    def function(self, operation: str) -> str:
        """The name of an operation's function. Qualified: of two tenants each has its own,
        wherever the search_path begins, and dropping one takes nothing from the other."""
        name = f"{FUNCTION_PREFIX}{self.trigger.topic}{FUNCTION_SUFFIXES[operation]}"
        return f"{self.quote(self.relation.schema)}.{self.quote(name)}"

    @cached_property
    def relation(self) -> Relation:
        """What the table is in the database now; a plain table if it is not there yet."""
        return relation_of(self.editor.connection, self.model._meta.db_table)

    @cached_property
    def queries(self) -> EventQueries:
        """The event queries of the declaration."""
        trigger, model = self.trigger, self.model
        changed, condition = trigger.changed, trigger.condition
        return EventQueries(
            columns=Columns(ledger=self.ledger, quote=self.quote),
            pk=declared.primary_key(model),
            data=declared.disclosed(trigger, model),
            changed=None if changed is None else [declared.resolve(model, n) for n in changed],
            groups=declared.groups(trigger, model),
            condition=None
            if condition is None
            else declared.condition_sql(condition, model, self.editor),
            on=trigger.on,
        )

    def functions_sql(self) -> str:
        """CREATE FUNCTION for each operation, with everything that it needs."""
        return "".join(self._function(operation) for operation in self.operations)

    def _function(self, operation: str) -> str:
        return TriggerFunction(
            name=self.function(operation),
            operation=operation,
            schema=self.schema,
            is_registered=self.is_registered,
            ledger=self.ledger,
            topic=self.trigger.topic,
            model=self.model._meta.label_lower,
            context=self.trigger.context,
            operations=self.operations,
            relation=self.relation,
            queries=self.queries,
        ).create_sql()

    @property
    def operations(self) -> list[str]:
        """The operations that get a trigger. Without "update" in ``on`` an UPDATE matters only
        if it can move rows."""
        on = set(self.trigger.on)
        if self.queries.rows_move and on & {"insert", "delete"}:
            on.add("update")
        return [operation for operation in FUNCTION_SUFFIXES if operation in on]

    @cached_property
    def version(self) -> str:
        """Short hash of all that is installed: a different one is outdated."""
        text = self.functions_sql() + self.triggers_sql()
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def create(self) -> Creation:
        """See create_statement()."""
        register = register_sql(
            self.ledger,
            topic=self.trigger.topic,
            trigger=self.trigger_names[0],
            declaration=json.dumps(self.declaration()),
            version=self.version,
        )
        template = refuse_others_sql(self.trigger_names) + self.triggers_sql() + register
        return Creation(
            "%(functions)s" + _escaped(template),
            topic=self.trigger.topic,
            functions=self.functions_sql(),
            **self._table(),
        )

    def remove(self) -> Statement:
        """See remove_statement()."""
        drops = [
            drop_triggers_sql(
                [self._trigger_name(operation) for operation in FUNCTION_SUFFIXES]
            ),
            drop_functions_sql([self.function(operation) for operation in FUNCTION_SUFFIXES]),
            unregister_sql(self.ledger, topic=self.trigger.topic),
        ]
        return Statement(_escaped("".join(drops)), **self._table())

    def _table(self) -> dict[str, Table]:
        table = self.model._meta.db_table
        return {
            "table": Table(table, self.quote),
            "table_literal": TableLiteral(table, self.quote),
        }

    def declaration(self) -> dict[str, Any]:
        """The declaration as the registry keeps it."""
        _, _, kwargs = self.trigger.deconstruct()
        condition = self.queries.condition
        known = {"condition": condition} if condition else {}
        return {
            **kwargs,
            **known,
            "model": self.model._meta.label_lower,
            "groups": list(self.trigger.group_templates),
        }

    # The triggers

    def triggers_sql(self) -> str:
        """CREATE TRIGGER for each operation; ``%(table)s`` stands for the table."""
        return "".join(self._trigger(operation) for operation in self.operations)

    def _trigger(self, operation: str) -> str:
        rows = {
            "insert": f"REFERENCING NEW TABLE AS {NEW_ROWS} ",
            "update": f"REFERENCING OLD TABLE AS {OLD_ROWS} NEW TABLE AS {NEW_ROWS} ",
            "delete": f"REFERENCING OLD TABLE AS {OLD_ROWS} ",
            "truncate": "",
        }[operation]
        name = self.quote(self._trigger_name(operation))
        by_row = self.relation.by_row and operation != "truncate"
        each = "FOR EACH ROW" if by_row else f"{rows}FOR EACH STATEMENT"
        return (
            f"CREATE OR REPLACE TRIGGER {name} AFTER {operation.upper()} ON %(table)s\n"
            f"    {each} EXECUTE FUNCTION {self.function(operation)}();\n"
        )

    @property
    def trigger_names(self) -> list[str]:
        """Names of the triggers that ought to stand on the table."""
        return [self._trigger_name(operation) for operation in self.operations]

    def _trigger_name(self, operation: str) -> str:
        return f"{self.trigger.topic}_{operation}"


def _escaped(template: str) -> str:
    return template.replace("%", "%%").replace("%%(table", "%(table")
