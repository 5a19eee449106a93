"""SQLAlchemy 2 over psycopg: create, reflect, and CRUD through the ORM and the core.

Reads PGHOST, PGPORT, PGUSER and PGDATABASE. Exits with 0 if everything is as a PostgreSQL would have it.
"""
import datetime as dt
import decimal
import os

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload

engine = sa.create_engine(
    "postgresql+psycopg://{}@{}:{}/{}".format(
        os.environ["PGUSER"], os.environ["PGHOST"], os.environ["PGPORT"], os.environ["PGDATABASE"]
    ),
    pool_pre_ping=True,
)


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "sa_customer"
    __table_args__ = (sa.CheckConstraint("balance >= 0", name="not_in_debt"), {"comment": "who buys"})
    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(40), unique=True)
    balance: Mapped[decimal.Decimal] = mapped_column(sa.Numeric(12, 2), server_default="0")
    tags: Mapped[list | None] = mapped_column(ARRAY(sa.Text))
    extra: Mapped[dict | None] = mapped_column(JSONB)
    key: Mapped[str | None] = mapped_column(UUID(as_uuid=False))
    made: Mapped[dt.datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())
    orders: Mapped[list["Order"]] = relationship(back_populates="customer", cascade="all, delete-orphan")


class Order(Base):
    __tablename__ = "sa_order"
    __table_args__ = (sa.Index("sa_order_day", "customer_id", "day"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(sa.ForeignKey("sa_customer.id", ondelete="CASCADE"))
    day: Mapped[dt.date]
    total: Mapped[float] = mapped_column(comment="in cents")
    customer: Mapped[Customer] = relationship(back_populates="orders")


def reflect():
    inspector = sa.inspect(engine)
    assert {"sa_customer", "sa_order"} <= set(inspector.get_table_names())
    assert inspector.has_table("sa_order") and not inspector.has_table("sa_nothing")
    assert inspector.get_pk_constraint("sa_order")["constrained_columns"] == ["id"]
    (key,) = inspector.get_foreign_keys("sa_order")
    assert key["referred_table"] == "sa_customer" and key["options"] == {"ondelete": "CASCADE"}, key
    assert [i["column_names"] for i in inspector.get_indexes("sa_order")] == [["customer_id", "day"]]
    assert [u["column_names"] for u in inspector.get_unique_constraints("sa_customer")] == [["name"]]
    assert [c["name"] for c in inspector.get_check_constraints("sa_customer")] == ["not_in_debt"]
    assert inspector.get_table_comment("sa_customer") == {"text": "who buys"}
    columns = {c["name"]: c for c in inspector.get_columns("sa_customer")}
    assert columns["id"]["identity"]["always"] is False, columns["id"]
    assert isinstance(columns["tags"]["type"], ARRAY) and isinstance(columns["extra"]["type"], JSONB)
    assert (columns["name"]["type"].length, columns["name"]["nullable"]) == (40, False)
    assert (columns["balance"]["type"].precision, columns["balance"]["type"].scale) == (12, 2)
    assert columns["made"]["type"].timezone is True
    reflected = sa.MetaData()
    reflected.reflect(engine)
    order = reflected.tables["sa_order"]
    assert order.c.total.comment == "in cents"
    assert [f.target_fullname for f in order.foreign_keys] == ["sa_customer.id"]
    assert "sa_view" in inspector.get_view_names()
    assert "SELECT" in inspector.get_view_definition("sa_view").upper()
    assert "public" in inspector.get_schema_names()


def crud():
    with Session(engine) as session:
        session.add_all(
            Customer(
                name=f"customer {n}",
                balance=decimal.Decimal(n) / 4,
                tags=["a", None, str(n)],
                extra={"n": n},
                key="a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
                orders=[Order(day=dt.date(2026, 1, 1 + m), total=n * m) for m in range(3)],
            )
            for n in range(30)
        )
        session.commit()
        query = sa.select(Customer).where(Customer.name == "customer 7").options(selectinload(Customer.orders))
        seven = session.scalars(query).one()
        assert (seven.tags, seven.extra, seven.balance) == (["a", None, "7"], {"n": 7}, decimal.Decimal("1.75"))
        assert sorted(o.total for o in seven.orders) == [0, 7, 14]
        assert seven.made.tzinfo is not None
        seven.name = "seven"
        seven.orders.pop()
        session.commit()
        assert session.scalar(sa.select(sa.func.count()).select_from(Order)) == 89
        sums = session.execute(
            sa.select(Customer.name, sa.func.sum(Order.total).label("total"))
            .join(Order)
            .group_by(Customer.name)
            .having(sa.func.sum(Order.total) > 80)
            .order_by(sa.desc("total"))
            .limit(2)
        ).all()
        assert sums == [("customer 29", 87.0), ("customer 28", 84.0)], sums
        session.delete(session.get(Customer, seven.id))
        session.commit()
        assert session.scalar(sa.select(sa.func.count(Order.id))) == 87
        session.add(Customer(name="customer 1"))
        try:
            session.commit()
            raise AssertionError("a name twice")
        except sa.exc.IntegrityError:
            session.rollback()
        with session.begin_nested():
            session.execute(sa.update(Customer).where(Customer.id < 5).values(balance=Customer.balance + 1))
        session.commit()
    with engine.begin() as connection:
        upsert = insert(Customer).values([{"name": "customer 2"}, {"name": "new"}])
        upsert = upsert.on_conflict_do_update(index_elements=["name"], set_={"extra": {"again": True}})
        names = connection.execute(upsert.returning(Customer.name)).scalars().all()
        assert sorted(names) == ["customer 2", "new"], names
        result = connection.execute(sa.delete(Customer).where(Customer.name.in_(["new", "customer 3"])))
        assert result.rowcount == 2


with engine.begin() as connection:
    connection.execute(sa.text("DROP VIEW IF EXISTS sa_view"))
Base.metadata.drop_all(engine)
Base.metadata.create_all(engine)
Base.metadata.create_all(engine)
with engine.begin() as connection:
    connection.execute(sa.text("CREATE VIEW sa_view AS SELECT name FROM sa_customer WHERE balance > 1"))
reflect()
crud()
with engine.begin() as connection:
    connection.execute(sa.text("DROP VIEW sa_view"))
Base.metadata.drop_all(engine)
print("SQLAlchemy", sa.__version__, "ok")
