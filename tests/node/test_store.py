"""The contract of the store on both databases: what is written is read again, one writer at a time, and faults have names."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from node.store import Database, clocks, index, obstacle, open_database, postgres, studies, tables
from node.store.anew import anew
from node.store.changes import Arrived
from node.store.engine import examine, unfit
from node.store.errors import StoreError
from tests.stores import STORES, Server, sql

pytestmark = pytest.mark.unit


@pytest.fixture
def db(back_end: str, tmp_path: Path) -> Iterator[Database]:
    del back_end
    db = STORES.open(tmp_path)
    yield db
    db.close()


@pytest.fixture
def server(postgres: Server) -> Iterator[Server]:
    STORES.use(postgres)
    yield postgres
    STORES.use(None)


def arrived(n: int, **more: object) -> Arrived:
    facts = {"patient_id": "P", "accession": "A", "date": "20260101", "bytes": 1, **more}
    return Arrived("a", 1.0, "1.2", "1.2.1", f"1.2.1.{n}", "1", "1.2.840.10008.1.2.1", f"d{n}", entry=f"e{n}", role="image", **facts)  # type: ignore[arg-type]  # fmt: skip


def take(db: Database, begin: int, *changes: Arrived) -> None:
    assert index.index(db, "j", (begin, begin + 1), changes, lambda _uid: "h") is not None


def test_what_databases_disagree_about_is_stored_alike(db: Database) -> None:
    long = "".join(chr(0x4E00 + n % 5000) for n in range(5000))  # beyond what fits into a page of a B-tree
    take(db, 0, arrived(1, patient_id="A\0B\ud800C", accession=long, bytes=1 << 40))
    (study,) = studies.find(db, accession=long, patient_id="A\0B\ud800C")
    assert study.patient_id == "A\ufffdB\ufffdC"
    assert studies.images(db, "1.2")[0].bytes == 1 << 40
    with db.write() as c:
        c.execute(
            tables.event.insert().values(
                study_uid="x", at=0.1 + 0.2, kind="k", data={"z": "\0\U0001f600", "a": [1 << 60]}
            )
        )
    ((at,),) = sql(db, "SELECT at FROM event")
    with db.read() as c:
        data = c.execute(sa.select(tables.event.c.data)).scalar_one()
    assert at == 0.1 + 0.2
    assert list(data.items()) == [("z", "\ufffd\U0001f600"), ("a", [1 << 60])], (
        "in the order in which they were written"
    )


def test_text_is_ordered_by_its_code_points(db: Database) -> None:
    names = ["1.10", "1.9", "B", "a", "_", "é", "\U00020000", "\uffee"]
    for name in names:
        sql(db, "INSERT INTO meta (key, value) VALUES (:name, 'order')", name=name)
    with db.read() as c:
        query = sa.select(tables.meta.c.key).where(tables.meta.c.value == "order").order_by(tables.meta.c.key)
        assert list(c.execute(query).scalars()) == sorted(names)


def test_images_are_numbered_in_the_order_in_which_they_came_and_a_study_knows_the_newest(db: Database) -> None:
    take(db, 0, *(arrived(n) for n in range(3)))
    take(db, 1, arrived(3), arrived(4))
    found = studies.study(db, "1.2")
    assert found is not None
    assert [image.id for image in studies.images(db, "1.2")] == [1, 2, 3, 4, 5]
    assert found.upto == 5


def test_who_reads_and_then_writes_loses_no_update(db: Database) -> None:
    sql(db, "INSERT INTO meta (key, value) VALUES ('n', '0')")

    def count() -> None:
        for _ in range(20):
            with db.write() as c:
                n = int(c.execute(sa.text("SELECT value FROM meta WHERE key = 'n'")).scalar_one())
                c.execute(sa.text("UPDATE meta SET value = :n WHERE key = 'n'"), {"n": str(n + 1)})

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert sql(db, "SELECT value FROM meta WHERE key = 'n'") == [("80",)]


def test_a_reader_sees_one_state_while_others_write(db: Database) -> None:
    with db.read() as c:
        before = c.execute(sa.text("SELECT count(*) FROM meta")).scalar_one()
        sql(db, "INSERT INTO meta (key, value) VALUES ('late', '')")
        assert c.execute(sa.text("SELECT count(*) FROM meta")).scalar_one() == before


def test_what_does_not_fit_is_told_from_what_the_machine_does_not_allow(db: Database) -> None:
    sql(db, "INSERT INTO meta (key, value) VALUES (:key, '')", key="Doe^John")
    with pytest.raises(sa.exc.IntegrityError) as twice:
        sql(db, "INSERT INTO meta (key, value) VALUES (:key, '')", key="Doe^John")
    assert (unfit(twice.value), obstacle(twice.value)) == (True, None)
    assert "Doe^John" not in str(twice.value), "an error's text ends in the log"
    with pytest.raises(sa.exc.DBAPIError) as gone, db.read() as c:
        c.execute(sa.text("SELECT 1 FROM no_such_table"))
    assert obstacle(gone.value) is None
    with pytest.raises((sa.exc.DataError, OverflowError)) as large, db.write() as c:
        c.execute(tables.journal.insert().values(file="f", offset=1 << 70))
    assert (unfit(large.value), obstacle(large.value)) == (True, None)


def test_missing_rights_are_nothing_about_the_values(server: Server, tmp_path: Path) -> None:
    db = STORES.open(tmp_path)
    sql(db, "CREATE ROLE reader LOGIN")
    other = sa.create_engine(str(STORES.place(tmp_path)).replace("test@", "reader@"))
    with pytest.raises(sa.exc.ProgrammingError) as denied, other.begin() as c:
        c.execute(tables.meta.insert().values(key="k", value="v"))
    assert not unfit(denied.value), "or every record would be passed over"
    other.dispose()
    sql(db, "DROP ROLE reader")
    del server


def test_who_hangs_with_the_lock_in_hand_loses_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del server
    monkeypatch.setitem(postgres._HURRY, "idle_in_transaction_session_timeout", "300ms")
    db = STORES.open(tmp_path)
    other = STORES.open(tmp_path)

    def hang() -> None:
        with db.write() as c:
            c.execute(tables.meta.insert().values(key="hung", value=""))
            sql(other, "INSERT INTO meta (key, value) VALUES ('other', '')")  # waits until the server has ended ours
            c.execute(tables.meta.insert().values(key="later", value=""))

    with pytest.raises(sa.exc.DBAPIError) as late:
        hang()
    assert obstacle(late.value) is not None
    assert [row[0] for row in sql(db, "SELECT key FROM meta WHERE key <> 'version'")] == ["other"]


def test_who_waits_too_long_for_the_lock_is_told_so(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del server
    monkeypatch.setitem(postgres._HURRY, "lock_timeout", "200ms")
    db, other = STORES.open(tmp_path), STORES.open(tmp_path)
    with db.write(), pytest.raises(sa.exc.OperationalError) as error, other.write():
        pass
    assert obstacle(error.value) == "canceling statement due to lock timeout"
    assert clocks.read(other) is None, "its connection is fit for use"


def test_every_session_has_the_limits_of_the_table(server: Server, tmp_path: Path) -> None:
    del server
    with STORES.open(tmp_path).read() as c:
        for name, value in {**postgres._HURRY, "synchronous_commit": "on"}.items():
            assert c.exec_driver_sql(f"SHOW {name}").scalar_one() in (value, "2min")
        assert c.exec_driver_sql("SHOW transaction_read_only").scalar_one() == "on"


def test_a_restart_of_the_server_is_not_noticed_afterwards(server: Server, tmp_path: Path) -> None:
    db = STORES.open(tmp_path)
    assert clocks.read(db) is None
    server.stop()
    try:
        with pytest.raises(sa.exc.OperationalError) as away, db.write():
            pass
        assert obstacle(away.value) is not None
        with pytest.raises(StoreError, match="cannot be opened") as closed:
            open_database(STORES.place(tmp_path))
        assert obstacle(closed.value) is not None
    finally:
        server.start()
    clocks.put(db, clocks.Clocks("r", 1.0, 2.0))
    assert clocks.read(db) == clocks.Clocks("r", 1.0, 2.0)
    server.stop()
    server.start()
    assert clocks.read(db) is not None, "nor one that happens between two questions"


def test_the_index_is_not_made_anew_beside_a_node_that_works(server: Server, tmp_path: Path) -> None:
    del server
    place = STORES.place(tmp_path)
    working = STORES.open(tmp_path)
    assert clocks.read(working) is None
    with pytest.raises(StoreError, match="stop every node first"):
        anew(place).clear()
    working.close()
    anew(place).clear()


def test_the_server_is_looked_at(server: Server, tmp_path: Path) -> None:
    place = STORES.place(tmp_path)
    assert examine(tmp_path / "node.sqlite3", time.time) is None
    found = examine(place, lambda: time.time() - 5.0)
    assert found is not None
    what, wrong = found
    assert what.startswith("PostgreSQL ")
    assert any("5.0 s ahead of" in text for text in wrong)
    assert any("fsync is off" in text for text in wrong)
    server.sql("ALTER SYSTEM SET fsync = on")
    server.sql("ALTER SYSTEM SET full_page_writes = on")
    server.sql("SELECT pg_reload_conf()")
    try:
        deadline = time.monotonic() + 10.0
        while (wrong := (examine(place, time.time) or ("", ["?"]))[1]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert wrong == []
    finally:
        server.sql("ALTER SYSTEM RESET ALL")
        server.sql("SELECT pg_reload_conf()")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://node:geheim@127.0.0.1:1/db",
        "postgresql+psycopg://node:ge/heim@127.0.0.1:1/db",
        "postgresql+psycopg://node:geheim@127.0.0.1:1/db?nonsense=1",
    ],
)
def test_a_password_is_in_no_error(url: str) -> None:
    with pytest.raises(StoreError) as error:
        open_database(url)
    told: BaseException | None = error.value
    while told is not None:
        assert "heim" not in str(told)
        told = told.__cause__


def test_without_psycopg_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(StoreError, match=r"pacs-ai-node\[cluster\]"):
        open_database("postgresql+psycopg://node@127.0.0.1/db")
