"""Signals: ``publish_signals()``, for what no trigger can compute."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.db import connections
from django.db.models.fields.related import lazy_related_operation
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_delete

from ..events import Event
from ..exceptions import InvalidDeclaration
from ..groups import GroupTemplate
from ..handlers import place_of
from .durable import in_transaction, ledger_schema
from .message import check_groups, check_topic, publish
from .relation_keys import RelationKeys
from .signal_events import SignalEvents, names_of

if TYPE_CHECKING:
    from django.db.models import Model

logger = logging.getLogger("django_pgnotify")

_publishers: dict[str, Publisher] = {}


def publish_signals(
    model: type[Model] | str,
    *,
    name: str,
    fields: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    serialize: Callable[[Any], Any] | None = None,
    m2m: Sequence[str] = (),
    durable: bool = True,
    using: str | None = None,
) -> None:
    """Publish the writes of a model that go through Django's signals: saves, deletes, changes
    of many-to-many fields. Not bulk_create(), update() or SQL: those need a NotifyTrigger.

    ``model``      the class or "app.Model"; what loaddata writes is published too
    ``name``       the topic; once in a project
    ``fields``     field names or attnames that stand in ``data``; default: the primary key.
                   ``changed`` holds those that ``save(update_fields=...)`` named
    ``groups``     with ``{attname}`` placeholders; default ``[name]``. Signals know no old
                   values: a row that leaves a group is not reported to it
    ``serialize``  called with the instance as it is in memory, returns the whole ``data``; for
                   a delete it is called while the row is still there
    ``m2m``        many-to-many fields: a change is an ``update`` with ``changed=[field]`` and
                   the related keys, sorted, as ``data[field]`` (unless there is ``serialize``).
                   To delete a related row sends no such signal
    ``durable``    as in notify(). Outside of ``atomic()`` Django commits, then sends signals
    ``using``      publish the writes of this database alone

    Raises InvalidDeclaration, InvalidGroup or InvalidEvent, for a model that is not loaded yet
    once it is. A write never fails because of an event: what goes wrong then is logged, with
    the ``action`` ``signal_not_published``.
    """
    if not (serialize is None or callable(serialize)):
        raise InvalidDeclaration(f"serialize={serialize!r:.200} can't be called.")
    events = SignalEvents(
        topic=check_topic(name),
        fields=None if fields is None else names_of("fields", fields),
        templates=[GroupTemplate(text) for text in names_of("groups", groups or [name])],
        serialize=serialize,
        m2m=names_of("m2m", m2m),
        durable=durable,
    )
    publisher = Publisher(events, using, _label(model))
    if name in _publishers:
        # AppConfig.ready() may run again, as where a test overrides INSTALLED_APPS.
        if _publishers[name].means != publisher.means:
            raise InvalidDeclaration(f"publish_signals() has the name {name!r} already.")
        return
    if isinstance(model, str):
        apps.lazy_model_operation(publisher.connect, tuple(publisher.label.split(".")))
    else:
        publisher.connect(model)
    _publishers[name] = publisher


def _label(model: type[Model] | str) -> str:
    if not isinstance(model, str):
        options = getattr(model, "_meta", None)
        return str(getattr(options, "label_lower", model))
    if model.count(".") != 1:
        raise InvalidDeclaration(
            f"publish_signals(): write {model!r:.200} as 'app_label.Model'."
        )
    return model.lower()


class Publisher:
    """One declaration, listening to the signals of its model."""

    def __init__(self, events: SignalEvents, using: str | None, label: str) -> None:
        if using is not None and using not in connections:
            raise InvalidDeclaration(f"using={using!r:.200} is no alias of DATABASES.")
        self.events = events
        self.using = using
        self.label = label
        self.uid = f"django_pgnotify {events.topic}"

    @property
    def means(self) -> tuple[object, ...]:
        """Equal to another one's if both declare the same."""
        events = self.events
        declared = (events.fields, events.templates, events.m2m, events.durable)
        return self.label, self.using, place_of(events.serialize), *declared

    def __repr__(self) -> str:
        # Django names it where a model, as text, is in no app.
        return f"publish_signals(name={self.events.topic!r})"

    def connect(self, model: type[Model]) -> None:
        """Check the declaration against the model, then listen."""
        self.events.bind(model)
        for signal, receiver in (
            (post_save, self.on_save),
            (pre_delete, self.before_delete),
            (post_delete, self.on_delete),
        ):
            self._listen(signal, receiver, model)
        for name in self.events.m2m:
            self._listen_m2m(model, name)

    def _listen_m2m(self, model: type[Model], name: str) -> None:
        def connect(_: Any, through: type[Model]) -> None:
            receiver = self._on_m2m(name, RelationKeys(field, model))
            # Several fields may have the same one.
            self._listen(m2m_changed, receiver, through, uid=f"{self.uid} {name}")

        field: Any = model._meta.get_field(name)
        # An intermediary model may be loaded later than this one.
        lazy_related_operation(connect, model, field.remote_field.through)

    def _listen(
        self, signal: Any, receiver: Callable[..., None], sender: Any, uid: str = ""
    ) -> None:
        def safe_receiver(*, using: str, **kwargs: Any) -> None:
            if self.using not in (None, using) or connections[using].vendor != "postgresql":
                return
            try:
                receiver(using=using, **kwargs)
            except Exception:
                # It must not become the caller's, whose write is right.
                logger.exception(
                    "publish_signals(name=%r) could not publish.",
                    self.events.topic,
                    extra={"action": "signal_not_published", "topic": self.events.topic},
                )

        uid = uid or self.uid
        signal.connect(safe_receiver, sender=sender, weak=False, dispatch_uid=uid)

    def on_save(
        self,
        *,
        instance: Model,
        created: bool,
        using: str,
        update_fields: Collection[str] | None,
        **kwargs: Any,
    ) -> None:
        """post_save; fixtures' ``raw`` ones too, since they write rows all the same."""
        if created:
            self._publish(*self.events.insert(instance, using))
        else:
            self._publish(*self.events.update(instance, using, update_fields))

    def before_delete(self, *, instance: Model, using: str, **kwargs: Any) -> None:
        """pre_delete: the last moment at which the row and its relations can be read."""
        vars(instance._state)[self.uid] = self.events.delete(instance, using)

    def on_delete(self, *, instance: Model, using: str, **kwargs: Any) -> None:
        """post_delete: now it is true."""
        if prepared := vars(instance._state).pop(self.uid, None):
            self._publish(*prepared)

    def _on_m2m(self, name: str, relation: RelationKeys) -> Callable[..., None]:
        key = f"{self.uid} {name}"

        def receiver(
            *,
            instance: Model,
            action: str,
            reverse: bool,
            pk_set: set[Any] | None,
            using: str,
            **kwargs: Any,
        ) -> None:
            owners: set[Any] = set()
            if action in ("pre_remove", "pre_clear"):
                losing = relation.owners_losing(instance, reverse, pk_set, using)
                vars(instance._state)[key] = losing
            elif action in ("post_remove", "post_clear"):
                owners = vars(instance._state).pop(key, owners)
            elif action == "post_add" and pk_set:
                owners = relation.owners_gaining(instance, reverse, pk_set)
            for owner in relation.load(owners, instance, reverse, using):
                keys = relation.keys(owner, using)
                self._publish(*self.events.related(owner, using, name, keys))

        return receiver

    def _publish(self, event: Event, groups: Sequence[str]) -> None:
        connection = connections[event.using]
        if event.durable and in_transaction(connection):
            # A ledger that vanished would fail the statement, and with it the transaction.
            ledger_schema(connection, look_again=True)
        publish(event, check_groups(list(groups)))
