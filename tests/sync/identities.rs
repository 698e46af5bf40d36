//! Whose a site is: the server's ids and those of others can't be announced to write.

use std::sync::{Arc, Mutex};

use tower_sqlite_sync::{AuthRequest, Changeset, Denied, Grant, Rebinding, Rights, SyncLayer, Verdict};
use tower_sqlite_sync_wire::{Position, Value};

use crate::fixture::{Client, ClientOptions, SCHEMA, Server, cell, cells};

const ROWS: &str = "SELECT a, b FROM foo ORDER BY a";
const TAKEN: &str = "this site id is another user's here: log in as that user, or begin with a new database";

/// Tokens are identities; those that end in `?` may only read.
async fn by_name(request: AuthRequest) -> Result<Grant, Denied> {
    Ok(match request.token() {
        None => Grant::read_write(),
        Some(name) if name.ends_with('?') => Grant::read_only().with_identity(name),
        Some(name) => Grant::read_write().with_identity(name),
    })
}

fn named(layer: SyncLayer) -> SyncLayer {
    layer.authorize(by_name)
}

async fn connect(server: &Server, room: &str, n: u8, name: Option<&'static str>) -> Client {
    let options = ClientOptions { token: name, ..Default::default() };
    let mut client = Client::connect_with(server.address, room, n, options).await;
    client.announce(&[]).await;
    client
}

/// Writes row `k` from site `n`, which has written `since` before.
async fn write(server: &Server, n: u8, name: Option<&'static str>, k: u8, since: i64) -> Client {
    let mut client = match since {
        0 => connect(server, "r", n, name).await,
        _ => Client::back_with(server, "r", n, ClientOptions { token: name, ..Default::default() }).await,
    };
    client.start_streaming().await;
    client.push(since, &[cell(k, "b", Value::Integer(1), since + 1)]).await;
    server.has("r", &format!("SELECT b FROM foo WHERE a = {k}"), &["1"]).await;
    client
}

async fn refused(server: &Server, n: u8, name: Option<&'static str>) {
    assert_eq!(connect(server, "r", n, name).await.closed().await, (1008, TAKEN.to_owned()), "{name:?}");
}

#[tokio::test]
async fn the_server_s_own_id_and_those_that_it_had_are_refused() {
    let server = Server::start().await;
    let client = Client::join(&server, "r", 1).await;
    let former = client.server;
    server.rooms.fork("r").await.unwrap();
    let own = Client::join(&server, "r", 1).await.server;
    assert_ne!(own, former);
    for site in [own, former] {
        let mut client = Client::connect(&server, "r", 2).await;
        client.site = site;
        client.announce(&[]).await;
        assert_eq!(client.closed().await, (1008, "this site id is the server's own".to_owned()));
        let changeset = Changeset {
            site: crr::SiteId::from_bytes(*site.as_bytes()),
            since: crr::Position::default(),
            schema_version: tower_sqlite_sync_wire::schema_version(SCHEMA),
            changes: [cell(1, "b", Value::Integer(1), 1)].into_iter().collect(),
            rights: Arc::default(),
            is_refused: false,
        };
        let verdict = server.rooms.apply("r", changeset).await.unwrap();
        assert!(matches!(&verdict, Verdict::Refused(refusal) if refusal.code == 1008), "{verdict:?}");
    }
}

#[tokio::test]
async fn a_site_is_whose_wrote_from_it_first_and_others_can_not_write_from_it() {
    let server = Server::with_layer(named).await;
    write(&server, 1, Some("ada"), 1, 0).await;
    for other in [Some("grace"), None] {
        refused(&server, 1, other).await;
    }
    write(&server, 1, Some("ada"), 2, 1).await;
    write(&server, 2, Some("grace"), 3, 0).await;
    let mut elsewhere = connect(&server, "other", 1, Some("grace")).await;
    elsewhere.start_streaming().await;
}

#[tokio::test]
async fn who_only_reads_may_come_from_any_site_and_takes_none() {
    let server = Server::with_layer(named).await;
    write(&server, 1, Some("ada"), 1, 0).await;
    let mut reader = connect(&server, "r", 1, Some("grace?")).await;
    assert_eq!(reader.start_streaming().await.since, Position::MUTE);
    let mut reader = connect(&server, "r", 2, Some("grace?")).await;
    reader.start_streaming().await;
    write(&server, 2, Some("ada"), 2, 0).await;
}

#[tokio::test]
async fn a_site_that_only_came_or_wrote_without_an_identity_is_anybody_s() {
    let server = Server::with_layer(named).await;
    connect(&server, "r", 1, Some("ada")).await.start_streaming().await;
    write(&server, 1, None, 1, 0).await;
    write(&server, 1, Some("grace"), 2, 1).await;
    refused(&server, 1, Some("ada")).await;
}

#[tokio::test]
async fn who_loses_the_race_for_a_site_is_refused_inside_the_transaction() {
    let server = Server::with_layer(named).await;
    let mut late = connect(&server, "r", 1, Some("grace")).await;
    late.start_streaming().await;
    let mut nameless = connect(&server, "r", 1, None).await;
    nameless.start_streaming().await;
    write(&server, 1, Some("ada"), 1, 0).await;
    for client in [&mut late, &mut nameless] {
        client.push(0, &[cell(2, "b", Value::Integer(2), 9)]).await;
        assert_eq!(client.closed().await, (1008, TAKEN.to_owned()));
    }
    assert_eq!(server.rows("r", ROWS).await, ["1|1"]);
    let options = ClientOptions { token: Some("ada"), ..Default::default() };
    let mut ada = Client::back_with(&server, "r", 1, options).await;
    assert_eq!(ada.start_streaming().await.since, Position::at(1), "nobody has moved her position");
}

#[tokio::test]
async fn a_hook_may_let_a_site_pass_to_another_identity() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let asked = asked.clone();
        move |site: Rebinding| {
            asked.lock().unwrap().push((site.room.to_string(), site.from.to_string(), site.to.clone()));
            async move { &*site.from == "guest" && site.to.is_some() }
        }
    };
    let server = Server::with_layer(|layer| named(layer).rebind(hook)).await;
    write(&server, 1, Some("guest"), 1, 0).await;
    refused(&server, 1, None).await;
    write(&server, 1, Some("ada"), 2, 1).await;
    refused(&server, 1, Some("guest")).await;
    write(&server, 1, Some("ada"), 3, 2).await;
    let asking = |from: &str, to: Option<&str>| ("r".to_owned(), from.to_owned(), to.map(Arc::from));
    let expected = [asking("guest", None), asking("guest", Some("ada")), asking("ada", Some("guest"))];
    assert_eq!(*asked.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_hook_that_panics_ends_that_connection_only() {
    let server = Server::with_layer(|layer| named(layer).rebind(async |site: Rebinding| panic!("{site:?}"))).await;
    let mut ada = write(&server, 1, Some("ada"), 1, 0).await;
    assert_eq!(connect(&server, "r", 1, Some("grace")).await.closed().await.0, 1011);
    ada.push(1, &[cell(2, "b", Value::Integer(2), 2)]).await;
    server.has("r", ROWS, &["1|1", "2|2"]).await;
}

#[tokio::test]
async fn whose_a_site_is_survives_restarts_migrations_and_forks_and_is_sent_to_nobody() {
    let server = Server::with_layer(named).await;
    write(&server, 1, Some("ada"), 1, 0).await;
    let next = SCHEMA.replace("NOT NULL, b)", "NOT NULL, b, c)").replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS");
    let version = server.publish(&next);
    let mut client = Client::connect_with(server.address, "r", 2, ClientOptions::default()).await;
    client.announce_schema("main.sql", version, &[]).await;
    client.start_streaming().await;
    assert_eq!(cells(&client.changes().await), ["1.b=1"]);
    server.rooms.fork("r").await.unwrap();
    server.rooms.reopen().await;

    let options = ClientOptions { token: Some("grace"), ..Default::default() };
    let mut client = Client::connect_with(server.address, "r", 1, options).await;
    client.announce_schema("main.sql", version, &[]).await;
    assert_eq!(client.closed().await, (1008, TAKEN.to_owned()));
    let tables = "SELECT DISTINCT \"table\" FROM crsql_changes";
    assert_eq!(server.rows("r", tables).await, ["'foo'"]);
}

#[tokio::test]
async fn identities_hold_for_changesets_that_are_forwarded() {
    let server = Server::with_layer(named).await;
    write(&server, 1, Some("ada"), 1, 0).await;
    let apply = async |name: Option<&str>, rebinds: Option<&str>, db_version: i64| {
        let (identity, rebinds) = (name.map(Arc::from), rebinds.map(Arc::from));
        let changeset = Changeset {
            site: crr::SiteId::from_bytes([1; 16]),
            since: crr::Position { db_version: 1, seq: 0 },
            schema_version: tower_sqlite_sync_wire::schema_version(SCHEMA),
            changes: [cell(2, "b", Value::Integer(2), db_version)].into_iter().collect(),
            rights: Arc::new(Rights { identity, rebinds, ..Rights::default() }),
            is_refused: false,
        };
        matches!(server.rooms.apply("r", changeset).await.unwrap(), Verdict::Applied { .. })
    };
    assert!(!apply(None, None, 2).await);
    assert!(!apply(Some("grace"), None, 2).await);
    assert!(apply(Some("grace"), Some("ada"), 2).await);
    assert!(!apply(Some("ada"), None, 3).await);
    assert!(apply(Some("grace"), None, 3).await);
}
