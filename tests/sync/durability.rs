//! What a client was shown survives the death of the server.
//!
//! The server that is killed is this test binary, started again with an environment variable that names its folder.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rusqlite::Connection;
use tempfile::TempDir;
use tower_sqlite_sync::SyncConfig;
use tower_sqlite_sync_wire::{Change, Position, SiteId, Value};

use crate::fixture::{Client, ClientOptions, Random, SCHEMA, Server, cell, last_version};

const FOLDER: &str = "TOWER_SQLITE_SYNC_TEST_FOLDER";

/// A server in a process of its own.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "durability::a_server_that_others_kill", "--ignored", "--nocapture"])
            .env(FOLDER, folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address =
            lines.map_while(Result::ok).find_map(|line| Some(line.split_once("listening on ")?.1.parse().unwrap()));
        Self { child, address: address.expect("the server says where it listens") }
    }

    /// Kills it without a warning.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    async fn join(&self, n: u8, seen: &[(SiteId, i64)]) -> (Client, Position) {
        let mut client = Client::connect_with(self.address, "r", n, ClientOptions::default()).await;
        client.announce(seen).await;
        let start = client.start_streaming().await;
        client.server = start.exclude_sites[0];
        (client, start.since)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("schemas")).unwrap();
    std::fs::write(folder.path().join("schemas/main.sql"), SCHEMA).unwrap();
    folder
}

#[tokio::test]
#[ignore = "the process that other tests start and kill"]
async fn a_server_that_others_kill() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let config = SyncConfig::default()
        .with_db_folder(Path::new(&folder).join("dbs"))
        .with_schema_folder(Path::new(&folder).join("schemas"));
    let server = Server::on(Arc::new(tempfile::tempdir().unwrap()), config).await;
    println!("listening on {}", server.address);
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn what_a_client_was_shown_is_there_after_a_kill() {
    let folder = folder();
    let mut random = Random::new(7);
    let (mut kept, mut shown, mut seen) = (0, 0, Vec::new());
    for round in 0..6 {
        let server = Process::start(folder.path());
        let (mut author, since) = server.join(1, &seen).await;
        assert_eq!(since, Position::at(kept), "round {round}");
        let (mut reader, _) = server.join(2, &seen).await;
        // More is under way than is shown when the server dies.
        let messages = (kept..kept + 30).map(|version| {
            let next = version + 1;
            author.changes_message(version, &[Change { col_version: next, ..cell(1, "b", Value::Integer(next), next) }])
        });
        let messages = messages.collect();
        author.send_all(messages).await;
        let wanted = kept + 1 + i64::try_from(random.below(20)).unwrap();
        let mut value = 0;
        while value < wanted {
            let news = reader.changes().await;
            assert_eq!(news.since, Position::at(shown), "round {round}: it goes on where it ended");
            shown = last_version(&news);
            let Some(Value::Integer(last)) = news.changes.iter().map(|change| change.val).last() else {
                unreachable!()
            };
            value = last;
        }
        seen = vec![(reader.server, shown)];
        server.kill();

        let conn = Connection::open(folder.path().join("dbs/r")).unwrap();
        let number = |sql| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        kept = number("SELECT version FROM crsql_tracked_peers");
        assert!(kept >= value, "round {round}: {kept} {value}");
        assert_eq!(number("SELECT b FROM foo"), kept, "changes and their position are one transaction");
        assert!(number("SELECT max(db_version) FROM foo__crsql_clock") >= shown, "round {round}");
    }
}

#[tokio::test]
async fn changes_of_several_clients_are_all_there_or_not_at_all_with_their_positions() {
    let folder = folder();
    let mut seen = Vec::new();
    for round in 0..4_i64 {
        let server = Process::start(folder.path());
        let (mut reader, _) = server.join(9, &[]).await;
        let mut authors = Vec::new();
        for n in 1..=6 {
            authors.push(server.join(n, &seen).await);
        }
        seen = vec![(reader.server, 1)];
        for step in 1..=10 {
            for (author, since) in &mut authors {
                let next = since.db_version + 20;
                let k = author.site.as_bytes()[0];
                // Two rows that always go together.
                let pair =
                    [k, k + 50].map(|row| Change { col_version: next, ..cell(row, "b", Value::Integer(next), next) });
                author.push(since.db_version, &pair).await;
                *since = Position::at(next);
            }
            if step > round {
                reader.changes().await;
            }
        }
        server.kill();
        let conn = Connection::open(folder.path().join("dbs/r")).unwrap();
        let torn: i64 = conn
            .query_row(
                "SELECT count(*) FROM crsql_tracked_peers AS peer
                 JOIN foo AS one ON one.a = unicode(substr(CAST(peer.site_id AS TEXT), 1, 1))
                 JOIN foo AS two ON two.a = one.a + 50
                 WHERE one.b <> peer.version OR two.b <> peer.version",
                [],
                |row| row.get(0),
            )
            .unwrap();
        let peers: i64 = conn.query_row("SELECT count(*) FROM crsql_tracked_peers", [], |row| row.get(0)).unwrap();
        let rows: i64 = conn.query_row("SELECT count(*) FROM foo", [], |row| row.get(0)).unwrap();
        assert_eq!((torn, rows), (0, peers * 2), "round {round}");
    }
}

#[tokio::test]
async fn a_position_that_a_client_was_told_is_kept_after_a_kill() {
    let folder = folder();
    let mut position = 0;
    let mut seen = Vec::new();
    for step in 1..=4 {
        let server = Process::start(folder.path());
        let (mut author, since) = server.join(1, &seen).await;
        assert_eq!(since, Position::at(position));
        author.push(position, &[Change { col_version: step, ..cell(1, "b", Value::Null, position + 20) }]).await;
        // A gap is answered with the position as it is now.
        author.push(1 << 40, &[cell(1, "b", Value::Null, (1 << 40) + 1)]).await;
        let told = author.start_streaming().await.since;
        server.kill();
        assert_eq!(told, Position::at(position + 20));
        position = told.db_version;
        seen = vec![(author.server, 1)];
    }
}
