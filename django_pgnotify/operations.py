"""Operations for migrations: InstallLedger for our own, AddNotifyTrigger for third-party models."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from django.db import router
from django.db.migrations.operations.base import Operation

from .checks import NOT_IN_META, declaration_messages
from .exceptions import InvalidDeclaration
from .ledger.install import install_sql, schema_for_ledger, uninstall_sql
from .publish.added import is_superseded
from .publish.registry import drop_all_sql, other_table
from .publish.trigger import NotifyTrigger

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor
    from django.db.migrations.state import ProjectState
    from django.db.models import Model


AS_IT_IS_NOW = (
    "If the other app has changed the model since, write a migration with RemoveNotifyTrigger and "
    "AddNotifyTrigger for the model as it is now."
)


class _DatabaseOnly(Operation):
    """An operation that leaves the models' state alone."""

    reduces_to_sql = True
    reversible = True

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        """Nothing: no model changes, least of all another app's."""


class InstallLedger(_DatabaseOnly):
    """Make the ledger's tables and functions; reversed, drop every trigger first, so that no
    write breaks, and then them. Does nothing on other databases than PostgreSQL."""

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        """Run ``ledger/sql/objects.sql``."""
        connection = schema_editor.connection
        if _concerns(connection, app_label):
            schema_editor.execute(install_sql(connection, schema_for_ledger(connection)), None)

    def database_backwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        """Take all triggers away, then the objects."""
        connection = schema_editor.connection
        if _concerns(connection, app_label):
            schema = schema_for_ledger(connection)
            schema_editor.execute(drop_all_sql(connection, schema), None)
            schema_editor.execute(uninstall_sql(connection, schema), None)

    def describe(self) -> str:
        """For ``sqlmigrate`` and ``migrate --plan``."""
        return "Install the ledger of django_pgnotify"


class AddNotifyTrigger(_DatabaseOnly):
    """Install a NotifyTrigger on a model of an app that is not yours, from a migration that is.

    ``model`` is ``"app_label.Model"``; the migration must depend on one of that app's. The other
    app's state is left alone, so ``makemigrations`` writes nothing into it. Reversible.

    Raises InvalidDeclaration when applied, for what the system checks refuse in a ``Meta``.
    """

    notify_trigger: ClassVar[str] = "add"
    forwards, backwards = "create_sql", "remove_sql"

    def __init__(self, model: str, trigger: NotifyTrigger) -> None:
        if not isinstance(trigger, NotifyTrigger):
            raise InvalidDeclaration(
                f"{type(self).__name__}: {trigger!r} is not a NotifyTrigger."
            )
        self.model = model
        self.trigger = trigger

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        """Create the function, triggers and registry entry; or drop them."""
        try:
            self._run(self.forwards, schema_editor, from_state)
        except InvalidDeclaration:
            if not is_superseded(schema_editor.connection, self):
                raise

    def database_backwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        """The other way. The other app may be ahead: then checks say what does not fit."""
        with suppress(InvalidDeclaration):
            self._run(self.backwards, schema_editor, from_state)

    def describe(self) -> str:
        """For ``sqlmigrate`` and ``migrate --plan``."""
        return f"Add notify trigger {self.trigger.topic} to {self.model}"

    @property
    def migration_name_fragment(self) -> str:
        """For the names of squashed and automatic migrations."""
        return f"{self.model.replace('.', '_').lower()}_{self.trigger.topic.lower()}"

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        """For squashing."""
        return type(self).__name__, [self.model, self.trigger], {}

    def _run(
        self, method: str, schema_editor: BaseDatabaseSchemaEditor, state: ProjectState
    ) -> None:
        try:
            model = state.apps.get_model(self.model)
        except (LookupError, ValueError) as error:
            raise InvalidDeclaration(
                f"{type(self).__name__}: {error} Name the model as 'app_label.Model' and make the "
                f"migration depend on one of that app's. {AS_IT_IS_NOW}"
            ) from error
        if router.allow_migrate_model(schema_editor.connection.alias, model):
            if method == "create_sql":
                self._refuse_invalid(model)
                self._refuse_taken(schema_editor.connection, model)
            statement = getattr(self.trigger, method)(model, schema_editor)
            if statement is not None:
                schema_editor.execute(statement, None)

    def _refuse_invalid(self, model: type[Model]) -> None:
        for message in declaration_messages(self.trigger, model):
            if message.id != NOT_IN_META:
                raise InvalidDeclaration(f"{message.msg} {message.hint} {AS_IT_IS_NOW}")

    def _refuse_taken(self, connection: BaseDatabaseWrapper, model: type[Model]) -> None:
        # In a Meta, Django's own checks find two constraints of one name.
        if connection.vendor != "postgresql":
            return
        if (table := other_table(connection, self.trigger.topic, model)) is not None:
            raise InvalidDeclaration(
                f"NotifyTrigger {self.trigger.topic!r}: table {table} has a trigger of this name"
                " already, and one topic is of one table. Choose another name."
            )


class RemoveNotifyTrigger(AddNotifyTrigger):
    """Take away what an earlier AddNotifyTrigger installed; reversed, install it again."""

    notify_trigger: ClassVar[str] = "remove"
    forwards, backwards = "remove_sql", "create_sql"

    def describe(self) -> str:
        """For ``sqlmigrate`` and ``migrate --plan``."""
        return f"Remove notify trigger {self.trigger.topic} from {self.model}"


def _concerns(connection: BaseDatabaseWrapper, app_label: str) -> bool:
    return connection.vendor == "postgresql" and router.allow_migrate(
        connection.alias, app_label
    )
