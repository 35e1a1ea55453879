"""publish_signals(): saves, deletes and many-to-many changes, and no save that it breaks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core import serializers
from django.db import connection, transaction
from django.db.models import F
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_delete

from django_pgnotify import event_context, publish_signals
from django_pgnotify.exceptions import InvalidDeclaration, InvalidEvent, InvalidGroup
from django_pgnotify.publish import signals
from tests.ears import Ears, LedgerReader, rolled_back
from tests.shop.models import Customer, Order

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


@pytest.fixture
def ledger() -> Iterator[LedgerReader]:
    with LedgerReader() as ledger:
        yield ledger


@pytest.fixture
def publish() -> Iterator[Callable[..., None]]:
    """publish_signals() for one test."""
    names = []

    def declare(model: Any, name: str = "saved", **options: Any) -> None:
        publish_signals(model, name=name, **options)
        names.append(name)

    yield declare
    for name in names:
        publisher = signals._publishers.pop(name)
        model = publisher.events.model
        for signal in (post_save, pre_delete, post_delete):
            signal.disconnect(sender=model, dispatch_uid=publisher.uid)
        for field in publisher.events.m2m:
            through = model._meta.get_field(field).remote_field.through
            m2m_changed.disconnect(sender=through, dispatch_uid=f"{publisher.uid} {field}")


def test_saves_and_deletes_are_published(publish: Any, ledger: LedgerReader) -> None:
    publish(Customer, fields=["id", "name"])
    customer = Customer.objects.create(name="Ann")
    pk = customer.pk
    customer.name = "Bea"
    customer.save()
    customer.save(update_fields=["name"])
    customer.delete()

    rows = ledger.rows()
    assert {(row["topic"], row["model"]) for row in rows} == {("saved", "shop.customer")}
    base = {"pk": pk, "groups": ["saved"]}
    bea = {"id": pk, "name": "Bea"}
    assert [change for row in rows for change in row["changes"]] == [
        {**base, "kind": "insert", "data": {"id": pk, "name": "Ann"}},
        {**base, "kind": "update", "data": bea, "changed": []},
        {**base, "kind": "update", "data": bea, "changed": ["name"]},
        {**base, "kind": "delete", "data": bea},
    ]


def test_data_is_the_primary_key_by_default(publish: Any, ledger: LedgerReader) -> None:
    publish(Customer)
    customer = Customer.objects.create(name="Ann")
    assert ledger.data() == [{"id": customer.pk}]


def test_names_stand_as_declared_and_values_as_stored(
    publish: Any, ledger: LedgerReader
) -> None:
    publish(Order, fields=["customer", "customer_id", "total"], groups=["o", "c-{customer_id}"])
    customer = Customer.objects.create(name="Ann")
    order = Order.objects.create(customer_id=str(customer.pk), total="1.5")
    order.total = F("total") + 1
    order.save()
    Order.objects.defer("total").get().delete()

    key = customer.pk
    assert [(c["kind"], c["groups"], c["data"]) for c in ledger.changes()] == [
        (kind, ["o", f"c-{key}"], {"customer": key, "customer_id": key, "total": total})
        for kind, total in (("insert", "1.50"), ("update", "2.50"), ("delete", "2.50"))
    ]


def test_the_serializer_gives_the_whole_data(publish: Any, ledger: LedgerReader) -> None:
    publish(Order, serialize=lambda order: {"who": order.customer.name, "total": order.total})
    customer = Customer.objects.create(name="Ann")
    Order.objects.create(customer=customer, total=Decimal("2"))
    customer.delete()
    assert ledger.data() == [{"who": "Ann", "total": "2"}, {"who": "Ann", "total": "2.00"}]


def test_a_rolled_back_savepoint_is_not_published(publish: Any, ledger: LedgerReader) -> None:
    publish(Customer, fields=["name"])
    publish(Customer, name="live", fields=["name"], durable=False)
    with Ears() as ears, transaction.atomic():
        Customer.objects.create(name="kept")
        with rolled_back():
            Customer.objects.create(name="rolled back")
        assert ledger.data() == []
        transaction.on_commit(lambda: None)
    with Ears() as ears:
        with transaction.atomic(), rolled_back():
            Customer.objects.create(name="rolled back")
        assert ears.data() == []
    assert ledger.data() == [{"name": "kept"}]


def test_live_events_go_after_the_commit_with_model_and_key(publish: Any) -> None:
    publish(Customer, fields=["name"], durable=False)
    with Ears() as ears:
        with event_context(user=7), transaction.atomic():
            customer = Customer.objects.create(name="Ann")
            assert ears.events() == []
        (event,) = ears.events()
    assert (event["model"], event["pk"], event["kind"]) == (
        "shop.customer",
        customer.pk,
        "insert",
    )
    assert event["data"] == {"name": "Ann"}
    assert event["context"] == {"user": 7}


def test_each_write_is_published_in_its_own_database(publish: Any) -> None:
    publish(Customer, fields=["name"])
    publish(Customer, name="only_other", fields=["name"], using="other")
    with LedgerReader() as default, LedgerReader("other") as other:
        Customer.objects.create(name="d")
        Customer.objects.using("other").create(name="o")
        assert [row["topic"] for row in default.rows()] == ["saved"]
        assert [row["topic"] for row in other.rows()] == ["saved", "only_other"]


def test_fixtures_are_published(publish: Any, ledger: LedgerReader) -> None:
    publish(Customer, fields=["name"])
    text = '[{"model": "shop.customer", "pk": 5, "fields": {"name": "loaded"}}]'
    for item in serializers.deserialize("json", text):
        item.save()
    assert ledger.data() == [{"name": "loaded"}]


def test_what_was_not_saved_is_not_published(publish: Any, ledger: LedgerReader) -> None:
    publish(Order, fields=["status", "total"], groups=["c-{customer_id}"])
    ann, bea = (Customer.objects.create(name=name) for name in ("Ann", "Bea"))
    order = Order.objects.create(customer=ann, total=1)
    Order.objects.update(total=99)
    order.status, order.total, order.customer = "paid", Decimal(-5), bea
    order.save(update_fields=["status"])
    order.status = "never saved"
    order.delete()
    assert [(c["kind"], c["data"], c["groups"]) for c in ledger.changes()[1:]] == [
        (kind, {"status": "paid", "total": "99.00"}, [f"c-{ann.pk}"])
        for kind in ("update", "delete")
    ]


def test_what_was_rolled_back_is_not_published_later(
    publish: Any, ledger: LedgerReader
) -> None:
    publish(User, fields=["username"], m2m=["groups"])
    user = User.objects.create(username="kept")
    with transaction.atomic(), rolled_back():
        user.username = "rolled back"
        user.save()
    user.groups.add(Group.objects.create(name="g"))
    assert ledger.changes()[-1]["data"]["username"] == "kept"


def test_a_row_that_is_gone_already_is_not_deleted_again(
    publish: Any, ledger: LedgerReader, caplog: pytest.LogCaptureFixture
) -> None:
    publish(Customer, fields=["name"])
    customer = Customer.objects.create(name="Ann")
    Customer.objects.get(pk=customer.pk).delete()
    customer.delete()
    assert [c["kind"] for c in ledger.changes()] == ["insert", "delete"]
    assert caplog.records == []


class TestManyToMany:
    def test_a_change_is_an_update_with_the_keys(
        self, publish: Any, ledger: LedgerReader
    ) -> None:
        publish(User, fields=["username"], m2m=["groups"])
        user = User.objects.create(username="u")
        one, two = (Group.objects.create(name=name) for name in "ab")
        ledger.rows()

        user.groups.add(two, one)
        user.groups.add(one)
        user.groups.remove(two)
        user.groups.remove(two)
        user.groups.set([two])
        user.groups.clear()
        user.groups.clear()

        changes = ledger.changes()
        assert {(c["kind"], c["pk"], tuple(c["changed"])) for c in changes} == {
            ("update", user.pk, ("groups",))
        }
        keys = [change["data"]["groups"] for change in changes]
        assert keys == [[one.pk, two.pk], [one.pk], [], [two.pk], []]
        assert changes[0]["data"]["username"] == "u"

    def test_the_reverse_side_publishes_each_owner(
        self, publish: Any, ledger: LedgerReader
    ) -> None:
        publish(User, groups=["u-{id}"], m2m=["groups"])
        users = [User.objects.create(username=name) for name in "abc"]
        group = Group.objects.create(name="g")
        ledger.rows()

        group.user_set.add(*users[:2])
        assert [(c["pk"], c["data"]["groups"], c["groups"]) for c in ledger.changes()] == [
            (user.pk, [group.pk], [f"u-{user.pk}"]) for user in users[:2]
        ]
        group.user_set.remove(users[0], users[2])
        assert [(c["pk"], c["data"]["groups"]) for c in ledger.changes()] == [(users[0].pk, [])]
        group.user_set.add(users[2])
        ledger.rows()
        group.user_set.clear()
        assert [(c["pk"], c["data"]["groups"]) for c in ledger.changes()] == [
            (users[1].pk, []),
            (users[2].pk, []),
        ]

    def test_a_serializer_keeps_the_word(self, publish: Any, ledger: LedgerReader) -> None:
        publish(User, serialize=lambda user: user.username, m2m=["groups"])
        user = User.objects.create(username="u")
        user.groups.add(Group.objects.create(name="g"))
        assert [(c["data"], c.get("changed")) for c in ledger.changes()] == [
            ("u", None),
            ("u", ["groups"]),
        ]


class TestNoSaveIsBroken:
    def check(self, caplog: pytest.LogCaptureFixture, name: str = "Ann") -> None:
        with caplog.at_level(logging.ERROR, "django_pgnotify"), transaction.atomic():
            customer = Customer.objects.create(name=name)
            customer.save()
            Customer.objects.create(name="after")
        Customer.objects.create(name="autocommit")
        customer.delete()
        assert {record.action for record in caplog.records} == {"signal_not_published"}  # type: ignore[attr-defined]
        assert set(Customer.objects.values_list("name", flat=True)) == {"after", "autocommit"}

    def test_by_a_serializer_that_raises(self, publish: Any, caplog: Any) -> None:
        publish(Customer, serialize=lambda customer: 1 / 0)
        self.check(caplog)

    def test_by_a_serializer_whose_query_fails(self, publish: Any, caplog: Any) -> None:
        def serialize(customer: Customer) -> Any:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 / 0")

        publish(Customer, serialize=serialize)
        self.check(caplog)

    def test_by_a_query_that_fails_in_a_transaction_by_hand(
        self, publish: Any, caplog: Any
    ) -> None:
        def serialize(customer: Customer) -> Any:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 / 0")

        publish(Customer, serialize=serialize)
        transaction.set_autocommit(False)
        try:
            Customer.objects.create(name="Ann")
            transaction.commit()
        finally:
            transaction.set_autocommit(True)
        assert Customer.objects.get().name == "Ann"

    def test_by_data_that_is_no_json(self, publish: Any, caplog: Any) -> None:
        publish(Customer, serialize=lambda customer: object())
        self.check(caplog)

    @pytest.mark.parametrize(
        ("kind", "name"), [("FUNCTION", "pgnotify_append"), ("TABLE", "django_pgnotify_ledger")]
    )
    def test_by_a_ledger_that_vanished(
        self, publish: Any, caplog: Any, kind: str, name: str
    ) -> None:
        publish(Customer)
        Customer.objects.create(name="the ledger is known now").delete()
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER {kind} {name} RENAME TO vanished")
            try:
                self.check(caplog)
            finally:
                cursor.execute(f"ALTER {kind} vanished RENAME TO {name}")

    def test_by_data_beyond_16_mib(self, publish: Any, ledger: LedgerReader) -> None:
        publish(Customer, serialize=lambda customer: "x" * 2**24)
        Customer.objects.create(name="Ann")
        (change,) = ledger.changes()
        assert change["truncated"] is True


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"fields": ["nam"]}, "Allowed are: .*status"),
        ({"fields": "name"}, "list of names"),
        ({"fields": ["order"]}, "has no field 'order'"),
        ({"groups": ["c-{nam}"]}, "group name"),
        ({"groups": ["c-{customer}"]}, "group name"),
        ({"groups": ["c-{total}"]}, "group name"),
        ({"m2m": ["name"]}, "many-to-many"),
        ({"serialize": "text"}, "can't be called"),
        ({"using": "nope"}, "no alias"),
    ],
)
def test_what_can_not_work_is_refused_when_declared(
    options: dict[str, Any], error: str
) -> None:
    with pytest.raises(InvalidDeclaration, match=error):
        publish_signals(Order, name="refused", **options)
    assert "refused" not in signals._publishers


def test_bad_names_are_refused(publish: Any) -> None:
    with pytest.raises(InvalidEvent):
        publish_signals(Order, name="a b")
    with pytest.raises(InvalidGroup):
        publish_signals(Order, name="refused", groups=["{id}{customer_id}"])
    publish(Order, name="twice")
    with pytest.raises(InvalidDeclaration, match="'twice'"):
        publish_signals(Customer, name="twice")


@pytest.mark.parametrize("label", ["Order", "shop.models.Order"])
def test_a_model_is_named_with_its_app(label: str) -> None:
    with pytest.raises(InvalidDeclaration, match=r"app_label\.Model"):
        publish_signals(label, name="refused")


def test_the_same_declaration_again_is_none(publish: Any, ledger: LedgerReader) -> None:
    """AppConfig.ready() runs again where a test overrides INSTALLED_APPS."""
    again = partial(publish_signals, name="saved")
    for declare, model in ((publish, Customer), (again, "shop.Customer")):
        declare(model, serialize=lambda customer: customer.name)
    Customer.objects.create(name="Ann")
    assert ledger.data() == ["Ann"]
    with pytest.raises(InvalidDeclaration, match="'saved'"):
        again(Customer)


def test_a_model_may_be_named(publish: Any, ledger: LedgerReader) -> None:
    publish("shop.Customer", fields=["name"])
    Customer.objects.create(name="Ann")
    assert ledger.data() == [{"name": "Ann"}]
