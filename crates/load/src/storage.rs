//! What storing takes without a server: an import by the engine, and by plain SQLite that writes the same rows and decides nothing; and
//! new rooms and single rows by plain SQLite.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crr::{Change, Merge, MergeOptions, SiteId};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, params};
use tempfile::TempDir;

use crate::fault::Fault;
use crate::rows::{CHUNK, COLUMNS, Row};

const AUTHOR: SiteId = SiteId::from_bytes([7; 16]);

/// The server's largest frame, where it cuts db_versions.
const FRAME: usize = 1 << 20;

/// Times for so many changes, in transactions of a message each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Storage {
    pub(crate) sqlite: Duration,
    pub(crate) engine: Duration,
}

impl Storage {
    /// Measures both, one after the other, on files in `folder`.
    pub(crate) fn measure(folder: &Path, changes: usize) -> Result<Self, Fault> {
        let folder = TempDir::with_prefix_in("load-", folder)?;
        let rows: Vec<Row> = (0..changes / COLUMNS.len()).map(Row::of).collect();
        Ok(Self {
            sqlite: sqlite(&plain_database(&folder.path().join("sqlite"))?, &rows)?,
            engine: engine(&database(&folder.path().join("engine"))?, &rows)?,
        })
    }
}

/// How long plain SQLite takes for so many rooms, with as many threads as there are processors: each is a file that is written whole and
/// synced, and a synced row in it. All stay open.
pub(crate) fn new_rooms(folder: &Path, rooms: usize) -> Result<Duration, Fault> {
    let folder = TempDir::with_prefix_in("load-", folder)?;
    let template = folder.path().join("template");
    drop(plain_database(&template)?);
    let (template, row) = (fs::read(&template)?, Row::of(0));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let make = &|first: usize| {
        let new_room = |number: usize| new_room(&folder.path().join(number.to_string()), &template, &row);
        (first..rooms).step_by(threads).map(new_room).collect::<Result<Vec<_>, Fault>>()
    };
    let start = Instant::now();
    thread::scope(|scope| {
        let makers: Vec<_> =
            (0..threads).map(|first| scope.spawn(move || make(first).map(|open| (open, Instant::now())))).collect();
        let ended = makers.into_iter().map(|maker| {
            let (_open, ended) = maker.join().map_err(|_| Fault::Setup("a thread has died".to_owned()))??;
            Ok(ended)
        });
        let ended = ended.collect::<Result<Vec<Instant>, Fault>>()?;
        Ok(ended.into_iter().fold(start, Instant::max).duration_since(start))
    })
}

fn new_room(path: &Path, template: &[u8], row: &Row) -> Result<Connection, Fault> {
    let mut file = File::create_new(path)?;
    file.write_all(template)?;
    file.sync_all()?;
    let conn = open(path)?;
    sqlite(&conn, std::slice::from_ref(row))?;
    Ok(conn)
}

/// How long plain SQLite takes for each of so many commits of a row, with that much time from one to the next: a disk that has had a
/// moment's rest answers later.
pub(crate) fn paced_commits(folder: &Path, period: Duration, commits: usize) -> Result<Vec<Duration>, Fault> {
    let folder = TempDir::with_prefix_in("load-", folder)?;
    let conn = plain_database(&folder.path().join("sqlite"))?;
    let commit = |number| {
        thread::sleep(period);
        sqlite(&conn, &[Row::of(number)])
    };
    (0..commits).map(commit).collect()
}

fn engine(conn: &Connection, rows: &[Row]) -> Result<Duration, Fault> {
    let packed: Vec<(&Row, Vec<u8>)> =
        rows.iter().map(|row| (row, [&[1, (1 << 3) | 3, 16], row.id.as_bytes()].concat())).collect();
    let start = Instant::now();
    for (chunk, db_version) in packed.chunks(CHUNK / COLUMNS.len()).zip(1..) {
        let transaction = conn.unchecked_transaction()?;
        let cells = chunk.iter().flat_map(|(row, pk)| cells(row).into_iter().map(move |cell| (pk, cell)));
        let changes = cells.zip(0..).map(|((pk, (cid, val)), seq)| Change {
            table: "item",
            pk,
            cid,
            val,
            col_version: 1,
            db_version,
            site_id: Some(AUTHOR),
            cl: 1,
            seq,
        });
        Merge::new(&transaction, MergeOptions::server(FRAME))?.changeset(changes)?;
        transaction.commit()?;
    }
    Ok(start.elapsed())
}

fn sqlite(conn: &Connection, rows: &[Row]) -> Result<Duration, Fault> {
    let mut insert_row = conn.prepare("INSERT INTO item (id, amount, done, price, title) VALUES (?, ?, ?, ?, ?)")?;
    let mut insert_key = conn.prepare("INSERT INTO item__crsql_pks (id) VALUES (?)")?;
    let mut insert_entry = conn.prepare("INSERT INTO item__crsql_clock VALUES (?, ?, 1, ?, 0, ?)")?;
    let start = Instant::now();
    for (chunk, db_version) in rows.chunks(CHUNK / COLUMNS.len()).zip(1_i64..) {
        let transaction = conn.unchecked_transaction()?;
        let mut seqs = 0_i64..;
        for row in chunk {
            insert_row.execute(params![row.id, row.amount, row.done, row.price, row.title])?;
            insert_key.execute([&row.id])?;
            let key = conn.last_insert_rowid();
            for (column, seq) in COLUMNS.into_iter().zip(&mut seqs) {
                insert_entry.execute((key, column, db_version, seq))?;
            }
        }
        transaction.commit()?;
    }
    Ok(start.elapsed())
}

fn cells(row: &Row) -> [(&'static str, ValueRef<'_>); 4] {
    let [amount, done, price, title] = COLUMNS;
    [
        (amount, ValueRef::Integer(i64::from(row.amount))),
        (done, ValueRef::Integer(i64::from(row.done))),
        (price, ValueRef::Real(row.price)),
        (title, ValueRef::Text(row.title.as_bytes())),
    ]
}

/// A database with the table, as the server opens the one it writes to.
fn database(file: &Path) -> Result<Connection, Fault> {
    let conn = open(file)?;
    let engine = crr::load(&conn)?;
    conn.execute_batch(
        "CREATE TABLE item (id TEXT PRIMARY KEY NOT NULL, amount INTEGER, done INTEGER, price REAL, title TEXT)",
    )?;
    engine.as_crr("item")?;
    Ok(conn)
}

/// The same without the engine: the same tables, but nothing tracks.
fn plain_database(file: &Path) -> Result<Connection, Fault> {
    drop(database(file)?);
    let conn = open(file)?;
    conn.execute_batch(
        "DROP TRIGGER item__crsql_itrig; DROP TRIGGER item__crsql_utrig; DROP TRIGGER item__crsql_dtrig",
    )?;
    Ok(conn)
}

fn open(file: &Path) -> Result<Connection, Fault> {
    let conn = Connection::open(file)?;
    conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(conn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_room_is_the_template_with_a_row_in_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let (template, room) = (folder.path().join("template"), folder.path().join("room"));
        drop(plain_database(&template).unwrap());
        let template = fs::read(template).unwrap();
        let conn = new_room(&room, &template, &Row::of(0)).unwrap();
        assert_eq!(conn.query_row("SELECT count(*) FROM item", [], |row| row.get(0)), Ok(1));
        assert!(fs::read(&room).unwrap() == template, "what was written is in the log");
        assert!(new_room(&room, &template, &Row::of(0)).is_err(), "it is there");
    }

    #[test]
    fn new_rooms_leave_nothing_and_what_goes_wrong_in_a_thread_is_told() {
        let folder = tempfile::tempdir().unwrap();
        new_rooms(folder.path(), 5).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        new_rooms(&folder.path().join("missing"), 5).unwrap_err();
    }

    #[test]
    fn each_commit_has_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let times = paced_commits(folder.path(), Duration::from_millis(1), 4).unwrap();
        assert_eq!((times.len(), times.contains(&Duration::ZERO)), (4, false));
    }

    #[test]
    fn both_store_the_same_rows_and_clocks() {
        let folder = tempfile::tempdir().unwrap();
        let rows: Vec<Row> = (0..600).map(Row::of).collect();
        let (plain, tracked) =
            (plain_database(&folder.path().join("a")).unwrap(), database(&folder.path().join("b")).unwrap());
        sqlite(&plain, &rows).unwrap();
        engine(&tracked, &rows).unwrap();
        for query in [
            "SELECT count(*), sum(amount), sum(done), sum(price), sum(length(title)) FROM item",
            "SELECT count(*), max(db_version), sum(seq), sum(col_version), sum(length(col_name)) FROM item__crsql_clock",
            "SELECT count(*), min(id), max(id), 0, 0 FROM item__crsql_pks",
        ] {
            let [a, b] = [&plain, &tracked].map(|conn| {
                conn.query_row(query, [], |row| {
                    (0..5).map(|at| row.get::<_, rusqlite::types::Value>(at)).collect::<Result<Vec<_>, _>>()
                })
                .unwrap()
            });
            assert_eq!(a, b, "{query}");
        }
    }
}
