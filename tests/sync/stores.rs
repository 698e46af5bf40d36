//! Rooms that live where a store of the application's says: in folders of its own, in epochs, or in copies that another process writes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tower_sqlite_sync::{
    AuthRequest, Changeset, Denied, Epoch, Error, Grant, Home, Opening, Primary, PrimaryFuture, PrimaryUnavailable,
    Refuse, RoomName, RoomStore, SchemaName, SyncConfig, SyncHandle, SyncLayer, Verdict,
};
use tower_sqlite_sync_wire::{Position, Value};

use crate::fixture::{Client, ClientOptions, SCHEMA, Server, cell, cells, last_version, until};

const ROWS: &str = "SELECT a, b FROM foo ORDER BY a";

// ---- Files ----

/// Rooms `customer.name` in a folder for each customer.
#[derive(Debug)]
struct ByCustomer(PathBuf);

impl RoomStore for ByCustomer {
    fn home(&self, room: &RoomName) -> Home {
        let (customer, name) = room.as_str().split_once('.').unwrap();
        Home::file(self.0.join(customer).join(name))
    }
}

#[tokio::test]
async fn rooms_live_where_the_store_says() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    std::fs::create_dir(folder.path().join("schemas")).unwrap();
    std::fs::write(folder.path().join("schemas/main.sql"), SCHEMA).unwrap();
    let store = ByCustomer(folder.path().join("customers"));
    let server = Server::with_store(folder.clone(), |config| config, store).await;
    let mut client = Client::join(&server, "acme.lobby", 1).await;
    let mut other = Client::join(&server, "acme.lobby", 2).await;
    client.push(0, &[cell(1, "b", Value::Integer(1), 1)]).await;
    assert_eq!(cells(&other.changes().await), ["1.b=1"]);
    assert!(folder.path().join("customers/acme/lobby").exists());
    assert!(!folder.path().join("dbs").exists());
}

/// Files that are written in an epoch.
#[derive(Debug)]
struct InEpoch(PathBuf, Epoch);

impl RoomStore for InEpoch {
    fn home(&self, room: &RoomName) -> Home {
        Home::file_in_epoch(self.0.join(room.as_str()), self.1)
    }
}

#[tokio::test]
async fn a_room_of_another_epoch_forks_before_it_serves() {
    let (first, second) = (Epoch::from_bytes([1; 16]), Epoch::from_bytes([2; 16]));
    let server = Server::start().await;
    let mut sites = vec![Client::join(&server, "r", 1).await.server];
    server.rooms.shutdown().await;
    for epoch in [first, first, second, second, first] {
        let store = InEpoch(server.folder.path().join("dbs"), epoch);
        let server = Server::with_store(server.folder.clone(), |config| config, store).await;
        sites.push(Client::join(&server, "r", 1).await.server);
        server.rooms.shutdown().await;
    }
    let same: Vec<bool> = sites.windows(2).map(|pair| pair[0] == pair[1]).collect();
    assert_eq!(same, [false, true, false, true, false]);
}

#[tokio::test]
async fn a_room_that_is_created_in_an_epoch_does_not_fork_in_it() {
    let epoch = Epoch::from_bytes([1; 16]);
    let server = Server::start().await;
    let mut sites = Vec::new();
    for _ in 0..2 {
        let store = InEpoch(server.folder.path().join("dbs"), epoch);
        let server = Server::with_store(server.folder.clone(), |config| config, store).await;
        sites.push(Client::join(&server, "r", 1).await.server);
        server.rooms.shutdown().await;
    }
    assert_eq!(sites[0], sites[1]);
}

#[tokio::test]
async fn a_room_that_was_half_created_in_another_epoch_forks_too() {
    let server = Server::start().await;
    std::fs::create_dir(server.folder.path().join("dbs")).unwrap();
    // Another process was about to apply the schema, and may have gone on with this site id.
    let conn = rusqlite::Connection::open(server.file("r")).unwrap();
    conn.pragma_update(None, "journal_mode", "WAL").unwrap();
    crr::load(&conn).unwrap();
    let half = *crr::Crr::of(&conn).unwrap().site_id().unwrap().as_bytes();
    drop(conn);
    let store = InEpoch(server.folder.path().join("dbs"), Epoch::from_bytes([1; 16]));
    let server = Server::with_store(server.folder.clone(), |config| config, store).await;
    assert_ne!(*Client::join(&server, "r", 1).await.server.as_bytes(), half);
}

// ---- Copies ----

/// The server that writes the rooms, asked without a network.
#[derive(Debug)]
struct Direct {
    rooms: SyncHandle,
    changed: watch::Sender<u64>,
    is_up: AtomicBool,
}

impl Direct {
    fn check(&self) -> Result<(), PrimaryUnavailable> {
        if self.is_up.load(Ordering::Relaxed) { Ok(()) } else { Err(unavailable("it is down")) }
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

fn unavailable(reason: impl ToString) -> PrimaryUnavailable {
    PrimaryUnavailable { reason: reason.to_string() }
}

impl Primary for Direct {
    fn open<'a>(&'a self, room: &'a RoomName, schema: &'a SchemaName, version: i64) -> PrimaryFuture<'a, Opening> {
        Box::pin(async move {
            self.check()?;
            self.rooms.open_room(room.as_str(), schema.as_str(), version).await.map_err(unavailable)
        })
    }

    fn apply<'a>(&'a self, room: &'a RoomName, changeset: &'a Changeset) -> PrimaryFuture<'a, Verdict> {
        Box::pin(async move {
            self.check()?;
            let verdict = self.rooms.apply(room.as_str(), changeset.clone()).await.map_err(unavailable)?;
            self.tell();
            Ok(verdict)
        })
    }

    fn changed(&self, _: &RoomName) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// Copies of the rooms that a primary writes. (The same files: SQLite shares them.)
#[derive(Debug)]
struct Copies(PathBuf, Arc<Direct>);

impl RoomStore for Copies {
    fn home(&self, room: &RoomName) -> Home {
        Home::replica(self.0.join(room.as_str()), self.1.clone())
    }
}

struct Pair {
    primary: Server,
    link: Arc<Direct>,
    replica: Server,
}

async fn pair() -> Pair {
    pair_with(|config| config).await
}

async fn pair_with(change: impl FnOnce(SyncConfig) -> SyncConfig) -> Pair {
    pair_with_both(change, |layer| layer).await
}

async fn pair_with_both(
    change: impl FnOnce(SyncConfig) -> SyncConfig,
    build: impl FnOnce(SyncLayer) -> SyncLayer,
) -> Pair {
    let primary = Server::start().await;
    let link =
        Arc::new(Direct { rooms: primary.rooms.clone(), changed: watch::Sender::new(0), is_up: AtomicBool::new(true) });
    let copies = Copies(primary.folder.path().join("dbs"), link.clone());
    let replica = Server::with_store_and_layer(primary.folder.clone(), change, copies, build).await;
    Pair { primary, link, replica }
}

#[tokio::test]
async fn clients_of_a_copy_and_of_the_primary_see_each_others_changes() {
    let Pair { primary, link, replica } = pair().await;
    let mut here = Client::join(&replica, "r", 1).await;
    let mut beside = Client::join(&replica, "r", 2).await;
    let mut there = Client::join(&primary, "r", 3).await;
    assert_eq!(here.server, there.server, "a copy is the same site");

    here.push(0, &[cell(1, "b", Value::Integer(1), 1)]).await;
    assert_eq!(cells(&there.changes().await), ["1.b=1"]);
    assert_eq!(cells(&beside.changes().await), ["1.b=1"]);

    there.push(0, &[cell(2, "b", Value::Integer(2), 1)]).await;
    primary.has("r", ROWS, &["1|1", "2|2"]).await;
    link.tell();
    assert_eq!(cells(&here.changes().await), ["2.b=2"]);
    assert_eq!(cells(&beside.changes().await), ["2.b=2"]);
}

#[tokio::test]
async fn a_gap_is_found_by_the_primary_and_asked_for_by_the_copy() {
    let Pair { replica, .. } = pair().await;
    let mut client = Client::join(&replica, "r", 1).await;
    client.push(5, &[cell(1, "b", Value::Integer(1), 6)]).await;
    assert_eq!(client.start_streaming().await.since, Position::START);
}

#[tokio::test]
async fn a_refusal_of_the_primary_closes_the_client_as_if_it_were_connected_there() {
    let Pair { primary, replica, .. } = pair().await;
    let mut closes = Vec::new();
    for (server, n) in [(&primary, 1), (&replica, 2)] {
        let mut client = Client::join(server, "r", n).await;
        client.push(0, &[cell(1, "no_such_column", Value::Integer(1), 1)]).await;
        closes.push(client.closed().await);
    }
    assert_eq!(closes[0], closes[1]);
    assert_eq!(closes[0].0, 1008);
}

#[tokio::test]
async fn rights_that_a_client_has_at_the_copy_hold_at_the_primary() {
    let Pair { primary, replica, .. } = pair_with_both(
        |config| config,
        |layer| {
            layer.authorize(async |request: AuthRequest| {
                let refuse = if request.token() == Some("revert") { Refuse::Revert } else { Refuse::Close };
                Ok::<_, Denied>(Grant::read_write().with_tables(["typed"]).with_refuse(refuse))
            })
        },
    )
    .await;
    let mut closed = Client::join(&replica, "r", 1).await;
    primary.write("r", "INSERT INTO foo VALUES (2, 2)").await;
    closed.push(0, &[cell(1, "b", Value::Integer(1), 1)]).await;
    assert_eq!(closed.closed().await, (1008, "changes refused: table foo may not be written to".to_owned()));

    let options = ClientOptions { token: Some("revert"), ..Default::default() };
    let mut reverted = Client::join_with(&replica, "r", 2, options).await;
    assert_eq!(cells(&reverted.changes().await), ["2.b=2"]);
    reverted.push(0, &[cell(1, "b", Value::Integer(1), 1)]).await;
    assert_eq!(cells(&reverted.changes().await), ["1.-1=NULL"]);
    assert_eq!(primary.rows("r", ROWS).await, ["2|2"]);
}

#[tokio::test]
async fn changes_wait_for_a_primary_that_is_away() {
    let Pair { primary, link, replica } = pair().await;
    let mut client = Client::join(&replica, "r", 1).await;
    link.is_up.store(false, Ordering::Relaxed);
    client.push(0, &[cell(1, "b", Value::Integer(1), 1)]).await;
    client.push(1, &[cell(2, "b", Value::Integer(2), 2)]).await;
    link.is_up.store(true, Ordering::Relaxed);
    primary.has("r", ROWS, &["1|1", "2|2"]).await;
}

#[tokio::test]
async fn a_primary_that_stays_away_closes_whoever_writes() {
    let Pair { link, replica, .. } = pair_with(|config| config.with_queue_wait(Duration::from_millis(300))).await;
    let mut writer = Client::join(&replica, "r", 1).await;
    let mut reader = Client::join(&replica, "r", 2).await;
    link.is_up.store(false, Ordering::Relaxed);
    writer.push(0, &[cell(1, "b", Value::Integer(1), 1)]).await;
    assert_eq!(writer.closed().await.0, 1013);

    link.is_up.store(true, Ordering::Relaxed);
    let mut writer = Client::join(&replica, "r", 1).await;
    writer.push(0, &[cell(1, "b", Value::Integer(1), 1)]).await;
    assert_eq!(cells(&reader.changes().await), ["1.b=1"], "who only reads stays");
}

#[tokio::test]
async fn the_application_writes_at_the_primary_only() {
    let Pair { primary, link, replica } = pair().await;
    let mut client = Client::join(&replica, "r", 1).await;
    let written = replica.rooms.write("r", |tx| tx.execute_batch("INSERT INTO foo VALUES (1, 1)")).await;
    assert!(matches!(written, Err(Error::NotPrimary { .. })), "{written:?}");
    assert!(matches!(replica.rooms.fork("r").await, Err(Error::NotPrimary { .. })));
    let applied = replica.rooms.apply("r", nothing()).await;
    assert!(matches!(applied, Err(Error::NotPrimary { .. })), "{applied:?}");

    primary.write("r", "INSERT INTO foo VALUES (1, 1)").await;
    link.tell();
    assert_eq!(cells(&client.changes().await), ["1.b=1"]);
    assert_eq!(replica.rows("r", ROWS).await, ["1|1"]);
}

fn nothing() -> Changeset {
    let (site, since) = (crr::SiteId::from_bytes([9; 16]), crr::Position::default());
    Changeset {
        site,
        since,
        schema_version: 0,
        changes: std::iter::empty().collect(),
        rights: Arc::default(),
        is_refused: false,
    }
}

#[tokio::test]
async fn a_room_that_forks_at_the_primary_is_another_site_at_the_copy() {
    let Pair { primary, link, replica } = pair().await;
    let mut client = Client::join(&replica, "r", 1).await;
    let former = client.server;
    primary.rooms.fork("r").await.unwrap();
    link.tell();
    assert_eq!(client.closed().await.0, 1001);

    let mut client = Client::connect_with(replica.address, "r", 1, ClientOptions::default()).await;
    client.announce(&[(former, 0)]).await;
    assert_ne!(client.start_streaming().await.exclude_sites, [former]);
}

#[tokio::test]
async fn a_copy_that_comes_later_than_the_primary_says_is_waited_for() {
    let primary = Server::start().await;
    let link =
        Arc::new(Direct { rooms: primary.rooms.clone(), changed: watch::Sender::new(0), is_up: AtomicBool::new(true) });
    let copies = Arc::new(tempfile::tempdir().unwrap());
    let store = Copies(copies.path().to_owned(), link.clone());
    let replica = Server::with_store(primary.folder.clone(), |config| config, store).await;
    let mut client = Client::connect(&replica, "r", 1).await;
    client.announce(&[]).await;
    until("the room", async || !primary.rooms.rooms().is_empty()).await;
    // A copy from the time when the room was being created, and then a whole one.
    for schema in ["", SCHEMA] {
        let conn = rusqlite::Connection::open(copies.path().join("r")).unwrap();
        conn.pragma_update(None, "journal_mode", "WAL").unwrap();
        crr::load(&conn).unwrap();
        conn.execute_batch(schema).unwrap();
        if !schema.is_empty() {
            let version = tower_sqlite_sync_wire::schema_version(schema);
            let sql = "INSERT INTO crsql_master VALUES ('schema_name', 'main.sql'), ('schema_version', ?1)";
            conn.execute(sql, [version]).unwrap();
        }
        link.tell();
    }
    client.start_streaming().await;
}

#[tokio::test]
async fn a_copy_that_never_comes_is_not_waited_for_longer_than_for_the_primary() {
    let primary = Server::start().await;
    let link =
        Arc::new(Direct { rooms: primary.rooms.clone(), changed: watch::Sender::new(0), is_up: AtomicBool::new(true) });
    let copies = Arc::new(tempfile::tempdir().unwrap());
    let store = Copies(copies.path().to_owned(), link);
    let impatient = |config: SyncConfig| config.with_queue_wait(Duration::from_millis(200));
    let replica = Server::with_store(primary.folder.clone(), impatient, store).await;
    let mut client = Client::connect(&replica, "r", 1).await;
    client.announce(&[]).await;
    assert_eq!(client.closed().await.0, 1013);
    assert!(!copies.path().join("r").exists(), "and none is made here");
}

#[tokio::test]
async fn a_copy_that_goes_back_has_its_clients_come_again() {
    let Pair { primary, link, replica } = pair().await;
    let mut client = Client::join(&replica, "r", 1).await;
    client.push(0, &[cell(1, "b", Value::Integer(1), 1)]).await;
    primary.has("r", ROWS, &["1|1"]).await;
    until("the change here", async || replica.rooms.rooms()[0].db_version == 1).await;
    primary.rooms.shutdown().await;
    let conn = rusqlite::Connection::open(primary.file("r")).unwrap();
    crr::load(&conn).unwrap();
    conn.execute_batch("DELETE FROM foo__crsql_clock").unwrap();
    link.tell();
    assert_eq!(client.closed().await.0, 1001, "the primary has been replaced by one whose file is older");
}

#[tokio::test]
async fn a_new_schema_that_comes_to_the_copy_migrates_the_room_at_the_primary() {
    let Pair { primary, replica, .. } = pair().await;
    let mut before = Client::join(&replica, "r", 1).await;
    before.push(0, &[cell(1, "b", Value::Integer(1), 1)]).await;
    primary.has("r", ROWS, &["1|1"]).await;
    let next = SCHEMA.replace("NOT NULL, b)", "NOT NULL, b, c)").replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS");
    let version = primary.publish(&next);
    let mut after = Client::connect_with(replica.address, "r", 2, ClientOptions::default()).await;
    after.announce_schema("main.sql", version, &[]).await;
    after.start_streaming().await;
    assert_eq!(before.closed().await.0, 4400);
    assert_eq!(replica.rows("r", "SELECT c FROM foo").await, ["NULL"]);
}

#[tokio::test]
async fn a_schema_that_the_primary_refuses_is_refused_by_the_copy() {
    let Pair { primary, replica, .. } = pair().await;
    Client::join(&replica, "r", 1).await;
    // It doesn't say IF NOT EXISTS.
    let version = primary.publish(&SCHEMA.replace("NOT NULL, b)", "NOT NULL, b, c)"));
    let mut client = Client::connect_with(replica.address, "r", 2, ClientOptions::default()).await;
    client.announce_schema("main.sql", version, &[]).await;
    assert_eq!(client.closed().await.0, 4400);
}

#[tokio::test]
async fn a_store_whose_rooms_move_has_them_opened_anew() {
    let Pair { primary, replica, .. } = pair().await;
    let mut client = Client::join(&replica, "r", 1).await;
    let mut reader = Client::join(&replica, "r", 2).await;
    client.push(0, &[cell(1, "b", Value::Integer(1), 1)]).await;
    let seen = last_version(&reader.changes().await);
    replica.rooms.reopen().await;
    assert_eq!(client.closed().await.0, 1001);
    assert_eq!(reader.closed().await.0, 1001);
    let mut reader = Client::connect_with(replica.address, "r", 2, ClientOptions::default()).await;
    reader.announce(&[(client.server, seen)]).await;
    reader.start_streaming().await;
    assert_eq!(primary.rows("r", ROWS).await, ["1|1"]);
}
