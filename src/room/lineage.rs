//! The sites that a room's database was before.
//!
//! Clients know a room by the site id of its database and a position in its db_versions. A database that went back in time (a
//! backup that was restored, a replica that missed the last commits) would use db_versions again that clients have already
//! passed, and they would miss changes for ever. So it *forks* before it serves: it becomes another site, and remembers which
//! site it was and at which db_version it ceased to be it.
//!
//! A client that knows the former site needs nothing of what it has seen there, as far as the file still has it: up to the db_version
//! of the fork, both have the same history. And because a client uploads what is newer than the position that the room has for
//! it, written by anyone but the room's new site, it brings back what the file has lost.
//!
//! That holds for clients that had seen all that was ever shown as the former site, and for all of them if nothing of it was lost.
//! Whoever had seen less may have read from a database in which cells that the file has had been written again, and left before it came
//! to them: it gets everything. (cr-sqlite keeps of a cell only where it was written last.)

use crr::Crr;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use tower_sqlite_sync_wire::{Position, SiteId};

use super::announced;
use super::convert::wire_site;
use crate::store::Epoch;

/// Where it is kept: in the room's own database, so that whoever has the file has its lineage. What was `shown` is NULL if nobody knows.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS crsql_sync_lineage (
    generation INTEGER PRIMARY KEY,
    site_id BLOB NOT NULL,
    db_version INTEGER NOT NULL,
    shown INTEGER
)";

/// Where the epoch is kept in which the room was last opened to be written.
const EPOCH_TABLE: &str =
    "CREATE TABLE IF NOT EXISTS crsql_sync_epoch (id INTEGER PRIMARY KEY CHECK (id = 0), epoch BLOB NOT NULL)";

/// How many former sites are remembered. A client that was away for longer downloads everything again.
const MOST: i64 = 10_000;

/// Whether a file that is opened is the one that clients know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// As far as anybody can tell, it goes on from where it was.
    Same,
    /// It went back in time, or may have: it forks.
    Earlier,
    /// It was damaged. If it is sound now, it is another one, and forks.
    Mended,
}

/// See the module's documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lineage {
    /// The newest first.
    ancestors: Vec<Ancestor>,
}

/// A site that the database was up to some db_version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ancestor {
    site: SiteId,
    db_version: i64,
    /// The last db_version that was ever shown under the site's id.
    shown: Option<i64>,
}

impl Ancestor {
    /// Whether a client that has seen so much has all that the site had, in that range, when it ceased to be it.
    fn is_known_to(&self, seen: i64) -> bool {
        self.shown.is_some_and(|shown| shown <= self.db_version || shown <= seen)
    }
}

impl Lineage {
    /// Call it in a transaction that has read something: then SQLite knows of the tables that others have made.
    pub(super) fn read(conn: &Connection) -> rusqlite::Result<Self> {
        if !conn.table_exists(Some(c"main"), c"crsql_sync_lineage")? {
            return Ok(Self::default());
        }
        let mut statement =
            conn.prepare("SELECT site_id, db_version, shown FROM crsql_sync_lineage ORDER BY generation DESC")?;
        let ancestors = statement.query_map([], |row| {
            Ok(Ancestor { site: SiteId::from_bytes(row.get(0)?), db_version: row.get(1)?, shown: row.get(2)? })
        })?;
        Ok(Self { ancestors: ancestors.collect::<rusqlite::Result<_>>()? })
    }

    /// Whether the database was that site before.
    pub(crate) fn includes(&self, site: SiteId) -> bool {
        self.ancestors.iter().any(|ancestor| ancestor.site == site)
    }

    /// Whether a client knows one of the former sites.
    pub(crate) fn is_known_to(&self, last_seens: &[(SiteId, Position)]) -> bool {
        last_seens.iter().any(|(site, _)| self.includes(*site))
    }

    /// The db_version up to which a client needs nothing.
    pub(crate) fn seen(&self, last_seens: &[(SiteId, Position)]) -> i64 {
        let seen = self.ancestors.iter().find_map(|ancestor| {
            let (_, Position { db_version: seen, .. }) = last_seens.iter().find(|(site, _)| *site == ancestor.site)?;
            ancestor.is_known_to(*seen).then(|| (*seen).clamp(0, ancestor.db_version.max(0)))
        });
        seen.unwrap_or(0)
    }
}

/// Makes the database another site. As the one that it was, db_versions up to `shown` were shown to clients, from whichever file.
pub(super) fn fork(conn: &mut Connection, shown: Option<i64>) -> crr::Result<Fork> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let crr = Crr::of(&tx)?;
    let (former, db_version) = (crr.site_id()?, crr.stored_db_version()?);
    tx.execute_batch(TABLE)?;
    tx.execute(
        "INSERT INTO crsql_sync_lineage (site_id, db_version, shown) VALUES (?1, ?2, ?3)",
        (former.as_bytes().as_slice(), db_version, shown),
    )?;
    tx.execute(
        "DELETE FROM crsql_sync_lineage WHERE generation <= (SELECT max(generation) FROM crsql_sync_lineage) - ?1",
        [MOST],
    )?;
    let site = crr.take_new_site_id()?;
    // Nobody has seen anything of the new site.
    announced::forget_all(&tx)?;
    tx.commit()?;
    Ok(Fork { former: wire_site(former), site: wire_site(site), db_version })
}

/// Says later what was shown as the site that the database was before its last fork.
pub(super) fn amend(conn: &Connection, shown: i64) -> rusqlite::Result<()> {
    let sql =
        "UPDATE crsql_sync_lineage SET shown = ?1 WHERE generation = (SELECT max(generation) FROM crsql_sync_lineage)";
    conn.execute(sql, [shown]).map(drop)
}

/// The epoch in which the room was last opened to be written, if there was one.
pub(super) fn epoch(conn: &Connection) -> rusqlite::Result<Option<Epoch>> {
    let exists = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'crsql_sync_epoch')";
    if !conn.query_row(exists, [], |row| row.get(0))? {
        return Ok(None);
    }
    let epoch = conn.query_row("SELECT epoch FROM crsql_sync_epoch", [], |row| row.get(0)).optional()?;
    Ok(epoch.map(Epoch::from_bytes))
}

/// Records that the room is written in `epoch` now.
pub(super) fn enter(conn: &Connection, epoch: Epoch) -> rusqlite::Result<()> {
    conn.execute_batch(EPOCH_TABLE)?;
    conn.execute("INSERT OR REPLACE INTO crsql_sync_epoch VALUES (0, ?1)", [epoch.as_bytes().as_slice()])?;
    Ok(())
}

/// What a fork came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fork {
    pub(super) former: SiteId,
    pub(super) site: SiteId,
    /// The last db_version of the former site in the file.
    pub(super) db_version: i64,
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::ops::ControlFlow;

    use crr::{Change, ChangesQuery, Merge, MergeOptions};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    const SCHEMA: &str = "CREATE TABLE item (id INTEGER PRIMARY KEY NOT NULL, a, b); SELECT crsql_as_crr('item')";
    const CLIENTS: usize = 3;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_is_restored_all_converge_and_nothing_is_lost(steps in vec(step(), 1..100)) {
            let mut model = Model::new();
            for step in steps {
                model.take(step);
            }
            model.settle();
            let expected = rows(&model.server.conn);
            for client in &model.clients {
                prop_assert_eq!(&rows(&client.conn), &expected);
            }
        }
    }

    #[test]
    fn a_client_needs_nothing_of_what_it_has_seen_before_the_fork() {
        let mut conn = database();
        conn.execute_batch("INSERT INTO item VALUES (1, 1, 1); INSERT INTO item VALUES (2, 2, 2)").unwrap();
        let first = fork(&mut conn, Some(2)).unwrap();
        conn.execute_batch("INSERT INTO item VALUES (3, 3, 3)").unwrap();
        let second = fork(&mut conn, Some(3)).unwrap();
        assert_eq!((first.db_version, second.db_version), (2, 3));
        assert_eq!(first.site, second.former);
        assert_ne!(second.site, second.former);
        let lineage = Lineage::read(&conn).unwrap();
        let at = |site, version| (site, Position::at(version));
        let stranger = SiteId::from_bytes([9; 16]);
        assert_eq!(lineage.seen(&[at(first.former, 1)]), 1);
        assert_eq!(lineage.seen(&[at(first.former, 50)]), 2, "no further than the file goes");
        assert_eq!(lineage.seen(&[at(first.former, -5)]), 0);
        assert_eq!(lineage.seen(&[at(first.former, 1), at(second.former, 3)]), 3, "the newest site counts");
        assert_eq!(lineage.seen(&[at(stranger, 3)]), 0);
        assert!(lineage.is_known_to(&[at(stranger, 3), at(second.former, 0)]));
        assert!(!lineage.is_known_to(&[at(stranger, 3)]) && !lineage.is_known_to(&[]));
    }

    #[test]
    fn a_client_that_has_not_seen_all_that_was_shown_and_lost_needs_everything() {
        let mut conn = database();
        conn.execute_batch("INSERT INTO item VALUES (1, 1, 1); INSERT INTO item VALUES (2, 2, 2)").unwrap();
        let first = fork(&mut conn, Some(2)).unwrap();
        conn.execute_batch("INSERT INTO item VALUES (3, 3, 3)").unwrap();
        let second = fork(&mut conn, None).unwrap();
        let seen = |conn: &Connection, last_seens: &[_]| Lineage::read(conn).unwrap().seen(last_seens);
        let at = |site, version| (site, Position::at(version));
        assert_eq!(seen(&conn, &[at(second.former, 3)]), 0, "nobody knows what was shown");
        assert_eq!(
            seen(&conn, &[at(first.former, 1), at(second.former, 3)]),
            1,
            "what it has of the site before it has"
        );
        amend(&conn, 5).unwrap();
        assert_eq!([3, 4, 5, 6].map(|seen_there| seen(&conn, &[at(second.former, seen_there)])), [0, 0, 3, 3]);
        amend(&conn, 3).unwrap();
        assert_eq!(
            [1, 3, 9].map(|seen_there| seen(&conn, &[at(second.former, seen_there)])),
            [1, 3, 3],
            "nothing was lost"
        );
    }

    #[test]
    fn a_database_that_never_forked_has_no_lineage() {
        assert_eq!(Lineage::read(&database()).unwrap(), Lineage::default());
    }

    #[test]
    fn the_oldest_of_too_many_sites_are_forgotten() {
        let mut conn = database();
        fork(&mut conn, None).unwrap();
        conn.execute("UPDATE crsql_sync_lineage SET generation = -?1", [MOST]).unwrap();
        conn.execute("INSERT INTO crsql_sync_lineage VALUES (0, zeroblob(16), 0, 0)", []).unwrap();
        fork(&mut conn, None).unwrap();
        assert_eq!(Lineage::read(&conn).unwrap().ancestors.len(), 2);
    }

    fn database() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        crr::load(&conn).unwrap();
        conn.execute_batch(SCHEMA).unwrap();
        conn
    }

    fn rows(conn: &Connection) -> Vec<(i64, Option<i64>, Option<i64>)> {
        let mut statement = conn.prepare("SELECT id, a, b FROM item ORDER BY id").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
        rows.collect::<rusqlite::Result<_>>().unwrap()
    }

    fn site(conn: &Connection) -> SiteId {
        wire_site(Crr::of(conn).unwrap().site_id().unwrap())
    }

    fn version(conn: &Connection) -> i64 {
        Crr::of(conn).unwrap().stored_db_version().unwrap()
    }

    #[derive(Clone, Debug)]
    enum Step {
        ClientWrites(usize, Write),
        ServerWrites(Write),
        /// A connection begins, with what was announced when the page was loaded.
        Connects(usize),
        /// The page is loaded again.
        Reloads(usize),
        /// So many db_versions, at most.
        Downloads(usize, i64),
        Uploads(usize, i64),
        /// The server's file is copied.
        Copy,
        /// A copy takes the place of the server's file, and maybe somebody knows what was shown of it.
        Restore(Index, bool),
    }

    #[derive(Clone, Debug)]
    enum Write {
        Set(i64, &'static str, i64),
        Delete(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let client = || 0..CLIENTS;
        let write = || {
            prop_oneof![
                4 => (0..4_i64, prop_oneof![Just("a"), Just("b")], 0..100_i64).prop_map(|(id, column, value)| Write::Set(id, column, value)),
                1 => (0..4_i64).prop_map(Write::Delete),
            ]
        };
        prop_oneof![
            6 => (client(), write()).prop_map(|(client, write)| Step::ClientWrites(client, write)),
            1 => write().prop_map(Step::ServerWrites),
            4 => client().prop_map(Step::Connects),
            3 => client().prop_map(Step::Reloads),
            6 => (client(), 1..9_i64).prop_map(|(client, count)| Step::Downloads(client, count)),
            5 => (client(), 1..6_i64).prop_map(|(client, count)| Step::Uploads(client, count)),
            2 => Just(Step::Copy),
            2 => (any::<Index>(), any::<bool>()).prop_map(|(which, knows)| Step::Restore(which, knows)),
        ]
    }

    struct Model {
        server: Server,
        copies: Vec<std::path::PathBuf>,
        /// The last db_version that each of the server's sites has had.
        shown: HashMap<SiteId, i64>,
        clients: Vec<Client>,
        folder: tempfile::TempDir,
    }

    struct Server {
        conn: Connection,
        /// Counts restores: connections to an earlier one are closed.
        life: usize,
    }

    struct Client {
        conn: Connection,
        announced: Vec<(SiteId, Position)>,
        /// The server's life that it is connected to, and how far it has read there.
        connected: Option<(usize, i64)>,
    }

    impl Model {
        fn new() -> Self {
            let client = || Client { conn: database(), announced: Vec::new(), connected: None };
            let folder = tempfile::tempdir().unwrap();
            let mut model = Self {
                server: Server { conn: database(), life: 0 },
                copies: Vec::new(),
                shown: HashMap::new(),
                clients: std::iter::repeat_with(client).take(CLIENTS).collect(),
                folder,
            };
            model.take(Step::Copy);
            model
        }

        fn take(&mut self, step: Step) {
            match step {
                Step::ClientWrites(client, write) => write.run(&self.clients[client].conn),
                Step::ServerWrites(write) => write.run(&self.server.conn),
                Step::Connects(client) => self.clients[client].connect(&self.server),
                Step::Reloads(client) => self.clients[client].reload(),
                Step::Downloads(client, count) => self.clients[client].download(&self.server, count),
                Step::Uploads(client, count) => self.clients[client].upload(&self.server, count),
                Step::Copy => {
                    let path = self.folder.path().join(self.copies.len().to_string());
                    self.server.conn.execute("VACUUM INTO ?1", [path.to_str().unwrap()]).unwrap();
                    self.copies.push(path);
                }
                Step::Restore(which, knows_what_was_shown) => {
                    let life = self.server.life + 1;
                    self.shown.insert(site(&self.server.conn), version(&self.server.conn));
                    let path = self.folder.path().join(format!("restored-{life}"));
                    std::fs::copy(which.get(&self.copies), &path).unwrap();
                    let mut conn = Connection::open(&path).unwrap();
                    conn.pragma_update(None, "synchronous", "OFF").unwrap();
                    crr::load(&conn).unwrap();
                    let shown = if knows_what_was_shown { self.shown.get(&site(&conn)).copied() } else { None };
                    fork(&mut conn, shown).unwrap();
                    self.server = Server { conn, life };
                }
            }
        }

        /// All connect and exchange everything.
        fn settle(&mut self) {
            self.clients.iter_mut().for_each(|client| client.connect(&self.server));
            for _ in 0..CLIENTS + 1 {
                for client in &mut self.clients {
                    client.upload(&self.server, i64::MAX);
                    client.download(&self.server, i64::MAX);
                }
            }
        }
    }

    impl Client {
        fn connect(&mut self, server: &Server) {
            let site = site(&server.conn);
            let known =
                self.announced.iter().find(|(known, _)| *known == site).map(|(_, position)| position.db_version);
            let former = || Lineage::read(&server.conn).unwrap().seen(&self.announced);
            self.connected = Some((server.life, known.unwrap_or_else(former)));
        }

        fn reload(&mut self) {
            self.connected = None;
            let mut statement = self.conn.prepare("SELECT site_id, version FROM crsql_tracked_peers").unwrap();
            let peers = statement.query_map([], |row| Ok((SiteId::from_bytes(row.get(0)?), Position::at(row.get(1)?))));
            self.announced = peers.unwrap().collect::<rusqlite::Result<_>>().unwrap();
        }

        fn download(&mut self, server: &Server, count: i64) {
            let Some((life, read)) = self.connected else { return };
            if life != server.life {
                self.connected = None;
                return;
            }
            let upto = version(&server.conn).min(read.saturating_add(count));
            exchange(&server.conn, &self.conn, read, upto, MergeOptions::default());
            self.connected = Some((life, upto));
        }

        fn upload(&mut self, server: &Server, count: i64) {
            if self.connected.is_none_or(|(life, _)| life != server.life) {
                self.connected = None;
                return;
            }
            let own = Crr::of(&self.conn).unwrap();
            let from = Crr::of(&server.conn).unwrap().position(own.site_id().unwrap()).unwrap().db_version;
            let upto = own.stored_db_version().unwrap().min(from.saturating_add(count));
            exchange(&self.conn, &server.conn, from, upto, MergeOptions::server(1 << 20));
        }
    }

    impl Write {
        fn run(&self, conn: &Connection) {
            match self {
                Self::Set(id, column, value) => {
                    let sql = format!(
                        "INSERT INTO item (id, {column}) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET {column} = excluded.{column}"
                    );
                    conn.execute(&sql, (id, value)).unwrap();
                }
                Self::Delete(id) => {
                    conn.execute("DELETE FROM item WHERE id = ?1", [id]).unwrap();
                }
            }
        }
    }

    /// One message from one database to another: the changes of some db_versions, but for the receiver's own, as the sender's.
    fn exchange(from: &Connection, to: &Connection, after: i64, upto: i64, options: MergeOptions) {
        let (sender, receiver) = (Crr::of(from).unwrap(), Crr::of(to).unwrap());
        let site = sender.site_id().unwrap();
        let query = ChangesQuery::default().after(after).up_to(upto).exclude(receiver.site_id().unwrap());
        let mut changes: Vec<OwnedChange> = Vec::new();
        sender
            .read_changes(&query, |change| {
                changes.push(OwnedChange::of(&change));
                ControlFlow::Continue(())
            })
            .unwrap();
        let tx = to.unchecked_transaction().unwrap();
        Merge::new(&tx, options).unwrap().changeset(changes.iter().map(|change| change.borrowed(site))).unwrap();
        receiver.set_position(site, crr::Position { db_version: upto, seq: 0 }).unwrap();
        tx.commit().unwrap();
    }

    struct OwnedChange {
        pk: Vec<u8>,
        cid: String,
        val: Option<i64>,
        numbers: [i64; 4],
    }

    impl OwnedChange {
        fn of(change: &Change<'_>) -> Self {
            Self {
                pk: change.pk.to_vec(),
                cid: change.cid.to_owned(),
                val: change.val.as_i64_or_null().unwrap(),
                numbers: [change.col_version, change.db_version, change.cl, change.seq],
            }
        }

        fn borrowed(&self, author: crr::SiteId) -> Change<'_> {
            let [col_version, db_version, cl, seq] = self.numbers;
            let val = self.val.map_or(rusqlite::types::ValueRef::Null, rusqlite::types::ValueRef::Integer);
            let (pk, cid) = (&self.pk, &self.cid);
            Change { table: "item", pk, cid, val, col_version, db_version, site_id: Some(author), cl, seq }
        }
    }
}
