//! Numbers: clients send them as doubles, the server makes them exact, and ties come out alike everywhere.

use tower_sqlite_sync_wire::{Change, Position, Value};

use crate::fixture::{Client, Server, cell, cells, key};

/// The position that a room has from site 2.
const SECOND_POSITION: &str =
    "SELECT version FROM crsql_tracked_peers WHERE site_id = x'02020202020202020202020202020202'";

const MAX_SAFE: i64 = (1 << 53) - 1;

#[allow(clippy::cast_precision_loss)]
const MAX_SAFE_DOUBLE: f64 = MAX_SAFE as f64;

fn typed<'a>(k: u8, cid: &'a str, val: Value<'a>, seq: i64) -> Change<'a> {
    Change { table: "typed", pk: key(k), seq, ..cell(k, cid, val, 1) }
}

#[tokio::test]
async fn a_whole_double_becomes_the_integer_that_it_was_and_a_fraction_stays() {
    let server = Server::start().await;
    let mut author = Client::join(&server, "r", 1).await;
    let mut reader = Client::join(&server, "r", 2).await;
    let cases = [
        (Value::Number(5.0), "5", "5"),
        (Value::Number(-0.0), "0", "0"),
        (Value::Number(1.5), "1.5", "1.5"),
        (Value::Number(4_294_967_296.0), "4294967296", "4294967296"),
        (Value::Number(MAX_SAFE_DOUBLE), "9007199254740991", "9007199254740991"),
        (Value::Number(-MAX_SAFE_DOUBLE), "-9007199254740991", "-9007199254740991"),
        (Value::Number(9_007_199_254_740_992.0), "9007199254740992.0", "9007199254740992.0"),
        (Value::Number(1e300), "1e300", "1e300"),
        (Value::Number(f64::INFINITY), "inf", "inf"),
        (Value::Number(f64::NEG_INFINITY), "-inf", "-inf"),
        (Value::Number(f64::NAN), "NULL", "NULL"),
        (Value::Number(5e-324), "5e-324", "5e-324"),
        (Value::Integer(i64::MAX), "9223372036854775807", "9223372036854775807"),
        (Value::Integer(i64::MIN), "-9223372036854775808", "-9223372036854775808"),
        (Value::Boolean(true), "1", "1"),
        (Value::Boolean(false), "0", "0"),
        (Value::Text(""), "''", "''"),
        (Value::Text("a\0b😀"), "'a\0b😀'", "'a\0b😀'"),
        (Value::Blob(b""), "x[]", "x[]"),
        (Value::Blob(b"\x00\xff"), "x[00, ff]", "x[00, ff]"),
        (Value::Null, "NULL", "NULL"),
    ];
    let changes: Vec<Change<'_>> =
        (1..).zip(&cases).map(|(k, (value, ..))| Change { seq: i64::from(k), ..cell(k, "b", *value, 1) }).collect();
    author.push(0, &changes).await;
    let sent = reader.gather(cases.len()).await;
    let stored = server.rows("r", "SELECT b FROM foo ORDER BY a").await;
    for (at, (value, in_the_file, on_the_wire)) in cases.iter().enumerate() {
        assert_eq!(stored[at], *in_the_file, "{value:?}");
        assert_eq!(sent[at], format!("{}.b={on_the_wire}", at + 1), "{value:?}");
    }
}

#[tokio::test]
async fn a_column_makes_of_a_number_what_its_type_says() {
    let server = Server::start().await;
    let mut author = Client::join(&server, "r", 1).await;
    let mut reader = Client::join(&server, "r", 2).await;
    let columns = ["r", "i", "t", "n", "x"];
    let rows = [(1, Value::Number(5.0)), (2, Value::Number(2.5)), (3, Value::Text("7")), (4, Value::Text("x"))];
    let changes: Vec<Change<'_>> = rows
        .iter()
        .flat_map(|(k, value)| columns.iter().map(move |column| typed(*k, column, *value, 0)))
        .enumerate()
        .map(|(seq, change)| Change { seq: i64::try_from(seq).unwrap(), ..change })
        .collect();
    author.push(0, &changes).await;
    let sent = reader.gather(changes.len()).await;
    assert_eq!(
        server.rows("r", "SELECT r, i, t, n, x FROM typed ORDER BY id").await,
        ["5.0|5|'5'|5|5", "2.5|2.5|'2.5'|2.5|2.5", "7.0|7|'7'|7|'7'", "'x'|'x'|'x'|'x'|'x'"]
    );
    assert_eq!(sent[..5], ["typed.1.r=5.0", "typed.1.i=5", "typed.1.t='5'", "typed.1.n=5", "typed.1.x=5"]);
}

#[tokio::test]
async fn what_the_server_writes_is_sent_as_it_is_stored() {
    let server = Server::start().await;
    let mut reader = Client::join(&server, "r", 1).await;
    server.write("r", "INSERT INTO typed (id, r, i, t, n, x) VALUES (1, 5, 5, 5, 5.0, x'01')").await;
    let mut sent = reader.gather(5).await;
    sent.sort();
    assert_eq!(sent, ["typed.1.i=5", "typed.1.n=5", "typed.1.r=5.0", "typed.1.t='5'", "typed.1.x=x[01]"]);
}

#[tokio::test]
async fn of_two_writes_with_equal_versions_the_larger_wins_whichever_comes_first() {
    // In the engine's order, which puts integers before everything else.
    let values = [
        Value::Null,
        Value::Blob(b"a"),
        Value::Text("a"),
        Value::Number(1.5),
        Value::Number(3.0),
        Value::Number(5.0),
        Value::Number(1.7e12),
    ];
    let server = Server::start().await;
    server.rooms.create_room("r", "main.sql").await.unwrap();
    let mut k = 0;
    let mut one = Client::join(&server, "r", 1).await;
    let mut two = Client::join(&server, "r", 2).await;
    for (at, low) in values.iter().enumerate() {
        for high in &values[at + 1..] {
            for (first, second) in [(low, high), (high, low)] {
                k += 1;
                let row = u8::try_from(k).unwrap();
                one.push(k - 1, &[cell(row, "b", *first, k)]).await;
                let sql = format!("SELECT count(*) FROM foo WHERE a = {k}");
                server.has("r", &sql, &["1"]).await;
                two.push(k - 1, &[cell(row, "b", *second, k)]).await;
                server.has("r", SECOND_POSITION, &[&k.to_string()]).await;
                let written = match high {
                    Value::Number(x) => x.to_string(),
                    Value::Text(_) => "'a'".to_owned(),
                    _ => "x[61]".to_owned(),
                };
                let found = server.rows("r", &format!("SELECT b FROM foo WHERE a = {k}")).await;
                assert_eq!(found, [written], "{first:?} then {second:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_number_of_a_client_beats_a_smaller_one_that_is_stored_as_an_integer() {
    let server = Server::start().await;
    let mut one = Client::join(&server, "r", 1).await;
    let mut two = Client::join(&server, "r", 2).await;
    // As the column's type stores it, as it came, and as the server itself wrote it.
    one.push(0, &[typed(1, "i", Value::Number(5.0), 0), cell(1, "b", Value::Integer(5), 1)]).await;
    server.has("r", "SELECT i, b FROM typed, foo", &["5|5"]).await;
    server.write("r", "INSERT INTO foo (a, b) VALUES (2, 5)").await;
    let larger = [
        typed(1, "i", Value::Number(7.0), 0),
        cell(1, "b", Value::Number(7.0), 1),
        cell(2, "b", Value::Number(7.0), 1),
    ];
    two.push(0, &larger).await;
    server.has("r", SECOND_POSITION, &["1"]).await;
    assert_eq!(server.rows("r", "SELECT i, b FROM typed, foo ORDER BY foo.a").await, ["7|7", "7|7"]);
}

#[tokio::test]
async fn a_tie_that_the_server_decides_by_value_goes_back_to_its_sender_too() {
    let server = Server::start().await;
    let mut one = Client::join(&server, "r", 1).await;
    let mut two = Client::join(&server, "r", 2).await;
    one.push(0, &[cell(1, "b", Value::Number(1_700_000_000_000.0), 1)]).await;
    assert_eq!(cells(&two.changes().await), ["1.b=1700000000000"]);
    two.push(0, &[cell(1, "b", Value::Number(1_700_000_000_001.0), 1)]).await;
    assert_eq!(cells(&one.changes().await), ["1.b=1700000000001"]);
    assert_eq!(cells(&two.changes().await), ["1.b=1700000000001"], "its engine may have decided otherwise");
}

#[tokio::test]
async fn a_tie_that_the_sender_loses_is_not_sent_again() {
    let server = Server::start().await;
    let mut one = Client::join(&server, "r", 1).await;
    let mut two = Client::join(&server, "r", 2).await;
    one.push(0, &[cell(1, "b", Value::Number(9.0), 1)]).await;
    assert_eq!(cells(&two.changes().await), ["1.b=9"]);
    two.push(0, &[cell(1, "b", Value::Number(5.0), 1), cell(2, "b", Value::Number(1.0), 2)]).await;
    let news = one.changes().await;
    assert_eq!(cells(&news), ["2.b=1"]);
    server.write("r", "INSERT INTO foo (a, b) VALUES (3, 'x')").await;
    assert_eq!(cells(&two.changes().await), ["3.b='x'"]);
}

#[tokio::test]
async fn a_number_that_the_column_already_holds_is_no_tie() {
    let server = Server::start().await;
    let mut one = Client::join(&server, "r", 1).await;
    let mut two = Client::join(&server, "r", 2).await;
    one.push(0, &[typed(1, "r", Value::Number(5.0), 0), typed(1, "t", Value::Number(5.0), 1)]).await;
    assert_eq!(two.gather(2).await, ["typed.1.r=5.0", "typed.1.t='5'"]);
    two.push(0, &[typed(1, "r", Value::Number(5.0), 0), typed(1, "t", Value::Text("5"), 1)]).await;
    two.push(1, &[Change { db_version: 2, ..cell(2, "b", Value::Null, 2) }]).await;
    assert_eq!(cells(&one.changes().await), ["2.b=NULL"], "nothing was won");
}

#[tokio::test]
async fn a_clock_far_ahead_raises_ours_by_a_bounded_step() {
    let server = Server::start().await;
    let mut author = Client::join(&server, "r", 1).await;
    let mut reader = Client::join(&server, "r", 2).await;
    author.push(0, &[cell(1, "b", Value::Number(1.0), 1 << 50)]).await;
    let news = reader.changes().await;
    assert_eq!(crate::fixture::last_version(&news), 1 << 24);
    drop(author);
    let mut author = Client::back(&server, "r", 1).await;
    assert_eq!(author.start_streaming().await.since, Position::at(1 << 50), "its own clock is its own affair");
}
