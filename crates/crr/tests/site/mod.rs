//! One replica of a database, with words for what the tests do to it and see of it.
//!
//! Changes are written as lines of nine fields, `table pk cid val col_version db_version site_id cl seq`:
//! `pk` in hex, `val` as an SQL literal without spaces, `site_id` as the name of a site.

// Each test file uses its own part of this vocabulary.
#![allow(dead_code)]

use std::ops::ControlFlow;

use crr::{Change, ChangesQuery, Crr, SiteId};
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Batch, Connection, Transaction, params};

/// `foo(a INTEGER PRIMARY KEY NOT NULL, b, c)`: untyped columns.
pub(crate) const FOO: &str = "
    CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b, c);
    SELECT crsql_as_crr('foo');";

/// `p(a, b)`: nothing but a composite key.
pub(crate) const P: &str = "
    CREATE TABLE p(a NOT NULL, b NOT NULL, PRIMARY KEY(a,b));
    SELECT crsql_as_crr('p');";

/// `t(x, y, z)`: a composite key in another order than its columns.
pub(crate) const T: &str = "
    CREATE TABLE t(x TEXT NOT NULL, y BLOB NOT NULL, z, PRIMARY KEY(y,x));
    SELECT crsql_as_crr('t');";

/// No table at all.
pub(crate) const EMPTY: &str = "";

/// The sites that change lines speak of by name.
const NAMED: [(&str, SiteId); 5] = [
    ("A", SiteId::from_bytes([0xa1; 16])),
    ("B", SiteId::from_bytes([0xb2; 16])),
    ("C", SiteId::from_bytes([0xc3; 16])),
    ("X", SiteId::from_bytes([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])),
    ("Y", SiteId::from_bytes([0xff; 16])),
];

/// The id of the site with this name: A, B, C, X or Y.
pub(crate) fn site(name: &str) -> SiteId {
    NAMED.iter().find(|(n, _)| *n == name).unwrap().1
}

/// One replica: a connection with the engine loaded.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) conn: Connection,
    pub(crate) id: SiteId,
}

impl Site {
    /// A replica in memory, with a named site's id, after running `schema`.
    pub(crate) fn new(name: &str, schema: &str) -> Site {
        Site::with_id(site(name), schema)
    }

    /// A replica in memory with the given id, after running `schema`.
    pub(crate) fn with_id(id: SiteId, schema: &str) -> Site {
        Site::on(Connection::open_in_memory().unwrap(), id, schema)
    }

    /// Makes the database behind `conn`, which must be new, the replica `id`.
    pub(crate) fn on(conn: Connection, id: SiteId, schema: &str) -> Site {
        // The engine keeps the id that it finds.
        conn.execute_batch(
            "CREATE TABLE crsql_site_id (site_id BLOB NOT NULL, ordinal INTEGER PRIMARY KEY);
             CREATE UNIQUE INDEX crsql_site_id_site_id ON crsql_site_id (site_id);",
        )
        .unwrap();
        conn.execute("INSERT INTO crsql_site_id VALUES (?, 0)", [id.as_bytes().as_slice()]).unwrap();
        crr::load(&conn).unwrap();
        let site = Site { conn, id };
        site.run(schema);
        site
    }

    /// The native interface of the same connection.
    pub(crate) fn crr(&self) -> Crr<'_> {
        Crr::of(&self.conn).unwrap()
    }

    /// Runs statements, each in a transaction of its own unless they say otherwise.
    pub(crate) fn run(&self, sql: &str) {
        if let Err(error) = self.try_run(sql) {
            panic!("{sql}: {error}");
        }
    }

    /// Like `run`, but hands back the first error.
    pub(crate) fn try_run(&self, sql: &str) -> rusqlite::Result<()> {
        let mut batch = Batch::new(&self.conn, sql);
        while let Some(mut statement) = batch.next()? {
            let mut rows = statement.raw_query();
            while rows.next()?.is_some() {}
        }
        Ok(())
    }

    /// The message with which the statements fail.
    pub(crate) fn error(&self, sql: &str) -> String {
        match self.try_run(sql) {
            Ok(()) => panic!("{sql}: did not fail"),
            Err(error) => error.to_string(),
        }
    }

    /// The rows of a query as SQL literals, one string a row.
    pub(crate) fn query(&self, sql: &str) -> Vec<String> {
        self.try_query(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Like `query`, but hands back the error.
    pub(crate) fn try_query(&self, sql: &str) -> rusqlite::Result<Vec<String>> {
        let mut statement = self.conn.prepare(sql)?;
        let columns = statement.column_count();
        let mut rows = statement.raw_query();
        let mut lines = Vec::new();
        while let Some(row) = rows.next()? {
            let cells: rusqlite::Result<Vec<String>> =
                (0..columns).map(|column| row.get_ref(column).map(literal)).collect();
            lines.push(cells?.join(", "));
        }
        Ok(lines)
    }

    /// Asserts the rows of a query, in order.
    #[track_caller]
    pub(crate) fn query_is(&self, sql: &str, rows: &[&str]) {
        assert_eq!(self.query(sql), rows, "{sql}");
    }

    /// All of `crsql_changes` as lines, in its default order.
    pub(crate) fn changes(&self) -> Vec<String> {
        self.pull(0, None).iter().map(OwnedChange::line).collect()
    }

    /// Asserts all of `crsql_changes`, in default order. The order of changes with the same (db_version, seq) is free.
    #[track_caller]
    pub(crate) fn changes_are(&self, expected: &str) {
        let actual = self.changes();
        let order: Vec<_> = actual.iter().map(|line| position(line)).collect();
        assert!(order.is_sorted(), "not in default order: {actual:#?}");
        let expected = expected.lines().map(str::trim).filter(|l| !l.is_empty());
        assert_eq!(canonical(actual), canonical(expected.map(str::to_owned).collect()));
    }

    /// Asserts that there are no changes.
    #[track_caller]
    pub(crate) fn no_changes(&self) {
        self.changes_are("");
    }

    /// Inserts one change, given as a line, into `crsql_changes`.
    pub(crate) fn merge(&self, line: &str) {
        if let Err(error) = self.try_merge(line) {
            panic!("{line}: {error}");
        }
    }

    /// The message with which a change, given as a line, is refused.
    pub(crate) fn refusal(&self, line: &str) -> String {
        match self.try_merge(line) {
            Ok(()) => panic!("{line}: was not refused"),
            Err(error) => error.to_string(),
        }
    }

    /// Inserts changes, given as lines, into `crsql_changes` by one statement.
    pub(crate) fn merge_at_once(&self, lines: &[String]) {
        let rows: Vec<String> = lines.iter().map(|line| sql_row(line)).collect();
        self.run(&format!("INSERT INTO crsql_changes VALUES {}", rows.join(", ")));
    }

    /// Like `merge`, but hands back the error.
    pub(crate) fn try_merge(&self, line: &str) -> rusqlite::Result<()> {
        self.try_run(&format!("INSERT INTO crsql_changes VALUES {}", sql_row(line)))
    }

    /// The changes newer than `since` whose author is not `exclude`, as a peer selects them.
    pub(crate) fn pull(&self, since: i64, exclude: Option<SiteId>) -> Vec<OwnedChange> {
        let mut statement = self
            .conn
            .prepare_cached(
                r#"SELECT "table", pk, cid, val, col_version, db_version, site_id, cl, seq
                   FROM crsql_changes WHERE db_version > ? AND site_id IS NOT ?"#,
            )
            .unwrap();
        let exclude = exclude.map(|id| id.as_bytes().to_vec());
        statement
            .query_map(params![since, exclude], |row| {
                Ok(OwnedChange {
                    table: row.get(0)?,
                    pk: row.get(1)?,
                    cid: row.get(2)?,
                    val: row.get(3)?,
                    col_version: row.get(4)?,
                    db_version: row.get(5)?,
                    site_id: row.get::<_, Option<[u8; 16]>>(6)?.map(SiteId::from_bytes),
                    cl: row.get(7)?,
                    seq: row.get(8)?,
                })
            })
            .unwrap()
            .collect::<rusqlite::Result<_>>()
            .unwrap()
    }

    /// The same through the native interface.
    pub(crate) fn read(&self, since: i64, exclude: Option<SiteId>) -> Vec<OwnedChange> {
        let mut changes = Vec::new();
        let query = ChangesQuery { after: since, exclude, ..ChangesQuery::default() };
        self.crr()
            .read_changes(&query, |change| {
                changes.push(OwnedChange::from(change));
                ControlFlow::Continue(())
            })
            .unwrap();
        changes
    }

    /// Inserts changes through `crsql_changes`, in one transaction.
    pub(crate) fn insert(&self, changes: &[OwnedChange]) {
        self.run("BEGIN");
        for change in changes {
            self.insert_one(change).unwrap_or_else(|error| panic!("{}: {error}", change.line()));
        }
        self.run("COMMIT");
    }

    /// Inserts one change through `crsql_changes`.
    pub(crate) fn insert_one(&self, change: &OwnedChange) -> rusqlite::Result<()> {
        let mut statement = self.conn.prepare_cached("INSERT INTO crsql_changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")?;
        statement.execute(params![
            change.table,
            change.pk,
            change.cid,
            change.val,
            change.col_version,
            change.db_version,
            change.site_id.map(|id| *id.as_bytes()),
            change.cl,
            change.seq,
        ])?;
        Ok(())
    }

    /// `from → self since n`: pulls what is newer and not ours, and inserts it with its authors in one transaction.
    pub(crate) fn pull_from(&self, from: &Site, since: i64) {
        self.insert(&from.pull(since, Some(self.id)));
    }

    /// A transaction for a native merge.
    pub(crate) fn transaction(&self) -> Transaction<'_> {
        self.conn.unchecked_transaction().unwrap()
    }

    /// `crsql_db_version()`.
    pub(crate) fn db_version(&self) -> i64 {
        self.conn.query_row("SELECT crsql_db_version()", [], |row| row.get(0)).unwrap()
    }

    /// All rows of a table, sorted, as SQL literals.
    pub(crate) fn rows(&self, table: &str) -> Vec<String> {
        let mut rows = self.query(&format!(r#"SELECT * FROM "{table}""#));
        rows.sort();
        rows
    }
}

/// A change with everything it borrows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OwnedChange {
    pub(crate) table: String,
    pub(crate) pk: Vec<u8>,
    pub(crate) cid: String,
    pub(crate) val: Value,
    pub(crate) col_version: i64,
    pub(crate) db_version: i64,
    pub(crate) site_id: Option<SiteId>,
    pub(crate) cl: i64,
    pub(crate) seq: i64,
}

impl OwnedChange {
    /// Reads a change line. The value may be an integer, a real, `'text'`, `x'hex'` or `NULL`.
    pub(crate) fn parse(line: &str) -> OwnedChange {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [table, pk, cid, val, col_version, db_version, author, cl, seq] = fields[..] else {
            panic!("not nine fields: {line}");
        };
        OwnedChange {
            table: table.to_owned(),
            pk: unhex(pk),
            cid: cid.to_owned(),
            val: parse_literal(val),
            col_version: col_version.parse().unwrap(),
            db_version: db_version.parse().unwrap(),
            site_id: (author != "NULL").then(|| site(author)),
            cl: cl.parse().unwrap(),
            seq: seq.parse().unwrap(),
        }
    }

    /// The change as a line.
    pub(crate) fn line(&self) -> String {
        let author = match self.site_id {
            None => "NULL".to_owned(),
            Some(id) => match NAMED.iter().find(|(_, named)| *named == id) {
                Some((name, _)) => (*name).to_owned(),
                None => hex(id.as_bytes()),
            },
        };
        format!(
            "{} {} {} {} {} {} {} {} {}",
            self.table,
            hex(&self.pk),
            self.cid,
            literal(ValueRef::from(&self.val)),
            self.col_version,
            self.db_version,
            author,
            self.cl,
            self.seq
        )
    }

    /// The change as the native merge takes it.
    pub(crate) fn borrowed(&self) -> Change<'_> {
        Change {
            table: &self.table,
            pk: &self.pk,
            cid: &self.cid,
            val: ValueRef::from(&self.val),
            col_version: self.col_version,
            db_version: self.db_version,
            site_id: self.site_id,
            cl: self.cl,
            seq: self.seq,
        }
    }
}

impl From<Change<'_>> for OwnedChange {
    fn from(change: Change<'_>) -> OwnedChange {
        OwnedChange {
            table: change.table.to_owned(),
            pk: change.pk.to_owned(),
            cid: change.cid.to_owned(),
            val: Value::try_from(change.val).unwrap(),
            col_version: change.col_version,
            db_version: change.db_version,
            site_id: change.site_id,
            cl: change.cl,
            seq: change.seq,
        }
    }
}

/// Change lines, one a line of text.
pub(crate) fn changeset(lines: &str) -> Vec<OwnedChange> {
    lines.lines().map(str::trim).filter(|line| !line.is_empty()).map(OwnedChange::parse).collect()
}

/// Change lines in default order, with ties in a fixed order.
pub(crate) fn canonical(mut lines: Vec<String>) -> Vec<String> {
    lines.sort_by(|a, b| (position(a), a).cmp(&(position(b), b)));
    lines
}

/// A change, given as a line, as a row of VALUES.
fn sql_row(line: &str) -> String {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [table, pk, cid, val, col_version, db_version, author, cl, seq] = fields[..] else {
        panic!("not nine fields: {line}");
    };
    let author = match author {
        "NULL" => "NULL".to_owned(),
        "own" => "crsql_site_id()".to_owned(),
        "empty" => "x''".to_owned(),
        bytes if bytes.starts_with("zeroblob") => bytes.to_owned(),
        name => format!("x'{}'", hex(site(name).as_bytes())),
    };
    format!("('{table}', x'{pk}', '{cid}', {val}, {col_version}, {db_version}, {author}, {cl}, {seq})")
}

/// A value as an SQL literal; the ids of named sites by their names.
pub(crate) fn literal(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => format!("{number:?}"),
        ValueRef::Text(text) => format!("'{}'", std::str::from_utf8(text).unwrap()),
        ValueRef::Blob(bytes) => match NAMED.iter().find(|(_, id)| id.as_bytes() == bytes) {
            Some((name, _)) => (*name).to_owned(),
            None => format!("x'{}'", hex(bytes)),
        },
    }
}

/// Lower-case hex digits of some bytes.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of a string of hex digits.
pub(crate) fn unhex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn parse_literal(text: &str) -> Value {
    let quoted = |text: &str| text.strip_prefix('\'').and_then(|t| t.strip_suffix('\'')).map(str::to_owned);
    if text == "NULL" {
        Value::Null
    } else if let Some(digits) = text.strip_prefix('x').and_then(quoted) {
        Value::Blob(unhex(&digits))
    } else if let Some(text) = quoted(text) {
        Value::Text(text)
    } else if let Ok(number) = text.parse() {
        Value::Integer(number)
    } else {
        Value::Real(text.parse().unwrap())
    }
}

/// (db_version, seq) of a change line. The value may hold spaces, so the fields are counted from the end.
fn position(line: &str) -> (i64, i64) {
    let mut fields = line.rsplit(' ');
    let seq = fields.next().unwrap().parse().unwrap();
    let db_version = fields.nth(2).unwrap().parse().unwrap();
    (db_version, seq)
}
