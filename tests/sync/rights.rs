//! What clients may do, until when, and what becomes of what they may not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tower_sqlite_sync::{AuthRequest, Changeset, Denied, Grant, Refuse, Rights, Verdict};
use tower_sqlite_sync_wire::{Change, Position, Value};

use crate::fixture::{Client, ClientOptions, Random, Server, cell, cells, sentinel};

const FOO: &str = "SELECT a, b FROM foo ORDER BY a";
const TYPED: &str = "SELECT id, i FROM typed ORDER BY id";

/// Clients with a token may write to `foo` only, and the token says what becomes of the rest.
async fn hook(request: AuthRequest) -> Result<Grant, Denied> {
    let limited = Grant::read_write().with_tables(["foo"]);
    match request.token() {
        None => Ok(Grant::read_write()),
        Some("close") => Ok(limited.with_refuse(Refuse::Close)),
        Some("revert") => Ok(limited.with_refuse(Refuse::Revert)),
        Some("default") => Ok(limited),
        Some(_) => Err(Denied::forbidden("no")),
    }
}

async fn server() -> Server {
    Server::with_layer(|layer| layer.authorize(hook)).await
}

fn with(token: &'static str) -> ClientOptions {
    ClientOptions { token: Some(token), ..Default::default() }
}

/// A write of column `i` in row `k` of the table that limited clients may not write to.
fn forbidden(k: u8, i: f64, col_version: i64, db_version: i64) -> Change<'static> {
    Change { table: "typed", col_version, ..cell(k, "i", Value::Number(i), db_version) }
}

#[tokio::test]
async fn a_changeset_with_an_effect_on_another_table_is_not_applied_and_the_close_names_the_table() {
    let server = server().await;
    let mut client = Client::join_with(&server, "r", 1, with("close")).await;
    client.push(0, &[cell(1, "b", Value::Integer(1), 1)]).await;
    server.has("r", FOO, &["1|1"]).await;
    client.push(1, &[cell(2, "b", Value::Integer(2), 2), forbidden(1, 5.0, 1, 2)]).await;
    assert_eq!(client.closed().await, (1008, "changes refused: table typed may not be written to".to_owned()));
    assert_eq!(server.rows("r", FOO).await, ["1|1"], "nothing of it, what is allowed neither");
    assert_eq!(server.rows("r", TYPED).await, [""; 0]);

    let mut client = Client::back_with(&server, "r", 1, with("close")).await;
    let start = Instant::now();
    client.start_streaming().await;
    assert!(start.elapsed() >= Duration::from_secs(1), "it is asked for its changes later");
}

#[tokio::test]
async fn changes_without_effect_need_no_right() {
    let server = server().await;
    let mut author = Client::join(&server, "r", 1).await;
    author.push(0, &[forbidden(1, 5.0, 3, 1)]).await;
    let mut client = Client::join_with(&server, "r", 2, with("close")).await;
    client.changes().await;
    client.push(0, &[forbidden(1, 5.0, 3, 1), forbidden(1, 9.0, 2, 2), cell(1, "b", Value::Integer(1), 2)]).await;
    server.has("r", FOO, &["1|1"]).await;
    assert_eq!(server.rows("r", TYPED).await, ["1|5"]);
}

#[tokio::test]
async fn a_reverted_client_is_given_back_what_the_room_has_and_goes_on() {
    let server = server().await;
    let mut other = Client::join(&server, "r", 1).await;
    other.push(0, &[forbidden(1, 5.0, 1, 1), forbidden(2, 6.0, 1, 1)]).await;
    let mut client = Client::join_with(&server, "r", 2, with("revert")).await;
    assert_eq!(client.gather(2).await, ["typed.1.i=5", "typed.2.i=6"]);

    // It sets, makes and deletes.
    let death = Change { table: "typed", ..sentinel(2, 2, 1) };
    client.push(0, &[forbidden(1, 7.0, 2, 1), forbidden(3, 8.0, 1, 1), death]).await;
    let returned = client.gather(8).await;
    let expected = [
        "typed.1.i=5",
        "typed.2.-1=NULL",
        "typed.2.i=6",
        "typed.2.n=NULL",
        "typed.2.r=NULL",
        "typed.2.t=NULL",
        "typed.2.x=NULL",
        "typed.3.-1=NULL",
    ];
    let mut sorted = returned.clone();
    sorted.sort();
    assert_eq!(sorted, expected, "the value, the row's death and its new life");
    assert_eq!(server.rows("r", TYPED).await, ["1|5", "2|6"]);

    client.push(1, &[cell(1, "b", Value::Integer(1), 2)]).await;
    server.has("r", FOO, &["1|1"]).await;
    assert_eq!(other.gather(8).await, returned);
    assert_eq!(cells(&other.changes().await), ["1.b=1"]);
}

#[tokio::test]
async fn all_of_a_changeset_is_reverted() {
    let server = server().await;
    let mut client = Client::join_with(&server, "r", 1, with("revert")).await;
    client.push(0, &[cell(1, "b", Value::Integer(1), 1), forbidden(1, 5.0, 1, 1)]).await;
    assert_eq!(client.gather(2).await, ["1.-1=NULL", "typed.1.-1=NULL"]);
    assert_eq!(server.rows("r", FOO).await, [""; 0]);
    client.push(1, &[cell(1, "b", Value::Integer(1), 2), sentinel(1, 3, 2)]).await;
    // The row is made again, in a life of its own.
    client.push(2, &[Change { cl: 3, ..cell(1, "b", Value::Integer(2), 3) }]).await;
    server.has("r", FOO, &["1|2"]).await;
}

#[tokio::test]
async fn a_reverted_changeset_is_not_asked_for_again() {
    let server = server().await;
    let mut client = Client::join_with(&server, "r", 1, with("revert")).await;
    client.push(0, &[forbidden(1, 5.0, 1, 7)]).await;
    client.changes().await;
    drop(client);
    let mut client = Client::connect_with(server.address, "r", 1, with("revert")).await;
    client.announce(&[]).await;
    assert_eq!(client.start_streaming().await.since, Position::at(7));
}

#[tokio::test]
async fn the_work_of_others_that_a_limited_client_brings_back_after_a_fork_is_left_to_those_who_may() {
    let server = server().await;
    for token in ["revert", "close"] {
        let before = Client::join(&server, token, 1).await;
        server.rooms.fork(token).await.unwrap();
        // The file that was restored doesn't have what others have written to `typed` and this client has seen.
        let mut limited = Client::connect_with(server.address, token, 2, with(token)).await;
        limited.announce(&[(before.server, 0)]).await;
        limited.start_streaming().await;
        limited.push(0, &[forbidden(1, 5.0, 1, 1), cell(1, "b", Value::Integer(1), 1)]).await;
        server.has(token, FOO, &["1|1"]).await;
        assert_eq!(server.rows(token, TYPED).await, [""; 0]);

        let mut author = Client::join(&server, token, 3).await;
        author.push(0, &[forbidden(1, 5.0, 1, 1)]).await;
        server.has(token, TYPED, &["1|5"]).await;
        assert_eq!(cells(&limited.changes().await), ["typed.1.i=5"]);

        limited.push(1, &[forbidden(1, 6.0, 2, 2)]).await;
        match token {
            "revert" => assert_eq!(cells(&limited.changes().await), ["typed.1.i=5"], "its own, as ever"),
            _ => assert_eq!(limited.closed().await.0, 1008),
        }
    }
}

#[tokio::test]
async fn the_configuration_says_what_becomes_of_changes_if_the_grant_does_not() {
    let server = Server::with_both(|config| config.with_refuse(Refuse::Revert), |layer| layer.authorize(hook)).await;
    let mut reverted = Client::join_with(&server, "r", 1, with("default")).await;
    reverted.push(0, &[forbidden(1, 5.0, 1, 1)]).await;
    assert_eq!(cells(&reverted.changes().await), ["typed.1.-1=NULL"]);
    let mut closed = Client::join_with(&server, "r", 2, with("close")).await;
    closed.push(0, &[forbidden(2, 5.0, 1, 1)]).await;
    assert_eq!(closed.closed().await.0, 1008);
}

#[tokio::test]
async fn others_do_not_notice_a_client_that_is_refused_all_the_time() {
    let server = server().await;
    let mut limited = Client::join_with(&server, "r", 1, with("revert")).await;
    let mut free = Client::join(&server, "r", 2).await;
    let many = |client: &Client, table| {
        let change =
            |n: i64| Change { table, cid: if table == "foo" { "b" } else { "i" }, ..forbidden(1, 1.0, 2 * n, n) };
        (1..=50).map(|n| client.changes_message(n - 1, &[change(n)])).collect::<Vec<_>>()
    };
    let (bad, good) = (many(&limited, "typed"), many(&free, "foo"));
    limited.send_all(bad).await;
    free.send_all(good).await;
    server.has("r", FOO, &["1|1"]).await;
    let positions = "SELECT version FROM crsql_tracked_peers ORDER BY site_id";
    server.has("r", positions, &["50", "50"]).await;
    assert_eq!(server.rows("r", TYPED).await, [""; 0]);
}

#[tokio::test]
async fn a_connection_ends_with_its_grant() {
    let server = Server::with_layer(|layer| {
        layer.authorize(async |request: AuthRequest| {
            let grant = Grant::read_write();
            Ok::<_, Denied>(match request.token() {
                Some("soon") => grant.with_expiry(SystemTime::now() + Duration::from_secs(1)),
                _ => grant,
            })
        })
    })
    .await;
    let mut other = Client::join(&server, "r", 1).await;
    let mut client = Client::connect_with(server.address, "r", 2, with("soon")).await;
    client.announce(&[]).await;
    let (code, reason) = client.closed().await;
    assert_eq!(code, 1008);
    assert!(reason.contains("expired") && reason.contains("new token"), "{reason}");
    server.write("r", "INSERT INTO foo VALUES (1, 1)").await;
    assert_eq!(cells(&other.changes().await), ["1.b=1"]);
}

#[tokio::test]
async fn who_comes_with_a_grant_that_has_ended_is_not_let_in() {
    let server = Server::with_layer(|layer| {
        layer.authorize(async |_request: AuthRequest| {
            Ok::<_, Denied>(Grant::read_write().with_expiry(SystemTime::UNIX_EPOCH))
        })
    })
    .await;
    let refused = Client::try_connect(server.address, "r", 1, ClientOptions::default()).await.err().unwrap();
    assert!(refused.to_string().contains("401"), "{refused}");
}

/// Random changes of a few rows of both tables, with versions that are about as new as those there.
fn changeset(random: &mut Random, version: i64) -> Vec<Change<'static>> {
    let change = |random: &mut Random| {
        let k = u8::try_from(1 + random.below(3)).unwrap();
        let table = *random.pick(&["foo", "foo", "typed"]);
        let newest = usize::try_from(3 + version).unwrap();
        let n = i64::try_from(1 + random.below(newest)).unwrap();
        let cid = if table == "foo" { "b" } else { "i" };
        match random.below(2) {
            0 => Change { table, cl: n | 1, ..cell(k, cid, Value::Integer(n), version) },
            _ => Change { table, ..sentinel(k, n, version) },
        }
    };
    (0..1 + random.below(3)).map(|_| change(random)).collect()
}

#[tokio::test]
async fn whatever_a_limited_client_sends_it_changes_what_it_may_or_nothing() {
    let server = Server::start().await;
    server.rooms.create_room("r", "main.sql").await.unwrap();
    let version = tower_sqlite_sync_wire::schema_version(crate::fixture::SCHEMA);
    let site = |n: u8| crr::SiteId::from_bytes([n; 16]);
    let mut random = Random::new(7);
    let mut positions = [0; 3];
    let mut seen = [0; 3];
    for step in 1..=150 {
        let n = random.below(3);
        let tables = (n > 0).then(|| Arc::new(BTreeSet::from(["foo".to_owned()])));
        let refuse = if n == 1 { Refuse::Close } else { Refuse::Revert };
        let since = crr::Position { db_version: positions[n], seq: 0 };
        let changeset = Changeset {
            site: site(u8::try_from(n).unwrap() + 1),
            since,
            schema_version: version,
            changes: changeset(&mut random, step).into_iter().collect(),
            rights: Arc::new(Rights { tables, refuse, ..Rights::default() }),
            is_refused: random.one_in(20),
        };
        let (reverts, limited) = (changeset.is_refused, n > 0);
        let before = (server.rows("r", FOO).await, server.rows("r", TYPED).await);
        let verdict = server.rooms.apply("r", changeset).await.unwrap();
        let after = (server.rows("r", FOO).await, server.rows("r", TYPED).await);
        if limited || reverts {
            assert_eq!(after.1, before.1, "{verdict:?}");
        }
        match verdict {
            Verdict::Applied { position, changes, .. } => {
                assert_eq!(position.db_version, step);
                positions[n] = step;
                if changes == 0 {
                    assert_eq!(after, before);
                }
            }
            Verdict::Refused(refusal) => {
                assert_eq!((n, refusal.code), (1, 1008));
                assert_eq!(after, before);
                seen[0] += 1;
            }
            Verdict::Gap(position) => panic!("{position:?}"),
        }
        seen[1] += usize::from(before.0 != after.0);
        seen[2] += usize::from(before.1 != after.1);
    }
    assert!(seen.iter().all(|count| *count > 3), "{seen:?}");
}
