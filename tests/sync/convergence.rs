//! Clients that write at random, lose their connections and messages, and come back with stale positions, end with the server's rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, params};
use tokio::sync::Mutex;
use tower_sqlite_sync::{AuthRequest, Denied, Grant, Refuse, SyncConfig};

use crate::fixture::{Random, Replica, Server};

/// The rows of all tables, with numbers as JavaScript sees them: there, 5 and 5.0 are one.
fn rows(conn: &Connection) -> Vec<String> {
    let number = |x: f64| format!("{x:?}");
    ["foo", "typed"]
        .iter()
        .flat_map(|table| {
            let mut statement = conn.prepare(&format!("SELECT * FROM {table}")).unwrap();
            let columns = statement.column_count();
            #[allow(clippy::cast_precision_loss)]
            let written = |value: ValueRef<'_>| match value {
                ValueRef::Integer(i) if i.abs() < (1 << 53) => number(i as f64),
                ValueRef::Real(x) => number(x),
                other => format!("{other:?}"),
            };
            let found = statement.query_map([], |row| {
                let cells: Vec<String> = (0..columns).map(|at| written(row.get_ref(at).unwrap())).collect();
                Ok(format!("{table} {}", cells.join("|")))
            });
            let mut found = found.unwrap().collect::<rusqlite::Result<Vec<String>>>().unwrap();
            found.sort();
            found
        })
        .collect()
}

/// Values that travel differently, some of them close to each other.
fn value(random: &mut Random) -> Value {
    let n = i64::try_from(random.below(4)).unwrap();
    match random.below(9) {
        0 => Value::Null,
        1 | 2 => Value::Integer(n),
        3 => Value::Integer(1_700_000_000_000 + n),
        4 => Value::Real(f64::from(u8::try_from(n).unwrap()) + 0.5),
        5 => Value::Real(f64::from(u8::try_from(n).unwrap())),
        6 => Value::Text(format!("text {n}")),
        7 => Value::Integer(i64::MAX - n),
        _ => Value::Blob(vec![0, u8::try_from(n).unwrap()]),
    }
}

fn write(conn: &Connection, random: &mut Random) {
    let key = i64::try_from(random.below(6)).unwrap() + 1;
    let column = *random.pick(&["r", "i", "t", "n", "x"]);
    let written = value(random);
    let done = match random.below(8) {
        0 | 1 => conn.execute("INSERT OR REPLACE INTO foo (a, b) VALUES (?1, ?2)", params![key, written]),
        2 => conn.execute("INSERT INTO foo (a, b) VALUES (?1, ?2) ON CONFLICT DO NOTHING", params![format!("k{key}"), written]),
        3 => conn.execute("UPDATE foo SET b = ?2 WHERE a = ?1", params![key, written]),
        4 => conn.execute("DELETE FROM foo WHERE a = ?1", params![key]),
        5 => conn.execute("UPDATE OR IGNORE foo SET a = ?2 WHERE a = ?1", params![key, key % 6 + 1]),
        6 => conn.execute(
            &format!("INSERT INTO typed (id, {column}) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET {column} = excluded.{column}"),
            params![key, written],
        ),
        _ => conn.execute("DELETE FROM typed WHERE id = ?1", params![key]),
    };
    done.unwrap();
}

/// One client's life: random steps, then nothing but what the server asks for.
async fn live(replica: Arc<Mutex<Replica>>, server: Arc<Server>, mut random: Random, stop: Arc<AtomicBool>) {
    let mut steps = 80;
    while !stop.load(Ordering::Relaxed) {
        let mut replica = replica.lock().await;
        let calm = steps == 0;
        if calm && !replica.is_honest() {
            replica.disconnect();
        }
        if !replica.is_connected() && (calm || random.one_in(3)) {
            replica.connect(server.address, "r").await;
        }
        let patience = Duration::from_millis(if calm { 20 } else { 1 + u64::try_from(random.below(5)).unwrap() });
        if let Ok(message) = tokio::time::timeout(patience, replica.receive()).await {
            let lost = !calm && random.one_in(12);
            replica.handle(message, lost).await;
        }
        if !calm {
            steps -= 1;
            for _ in 0..random.below(3) {
                write(&replica.conn, &mut random);
            }
            match random.below(20) {
                0 => replica.disconnect(),
                1 => replica.reload(),
                2 => replica.push(true).await,
                _ => replica.push(false).await,
            }
        }
        drop(replica);
        tokio::task::yield_now().await;
    }
}

/// Clients with the token `foo` may write to that table only, and are shown what the others are left with.
async fn rights(request: AuthRequest) -> Result<Grant, Denied> {
    let grant = Grant::read_write().with_refuse(Refuse::Revert);
    Ok(if request.token() == Some("foo") { grant.with_tables(["foo"]) } else { grant })
}

async fn converge(seed: u64, clients: u8) {
    let tokens = vec![None; clients.into()];
    converge_with(seed, &tokens).await;
}

async fn converge_with(seed: u64, tokens: &[Option<&'static str>]) {
    let small_frames = |config: SyncConfig| config.with_max_frame_bytes(2_000).with_feed_window_bytes(6_000);
    let server = Arc::new(Server::with_both(small_frames, |layer| layer.authorize(rights)).await);
    server.rooms.create_room("r", "main.sql").await.unwrap();
    let replica = |(n, token): (u8, &Option<&'static str>)| Arc::new(Mutex::new(Replica::with_token(n, *token)));
    let replicas: Vec<_> = (1..).zip(tokens).map(replica).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let lives: Vec<_> = (1..)
        .zip(&replicas)
        .map(|(n, replica)| {
            let random = Random::new(seed * 1_000 + n);
            tokio::spawn(live(replica.clone(), server.clone(), random, stop.clone()))
        })
        .collect();
    let mut random = Random::new(seed);
    for _ in 0..20 {
        let seed = random.next();
        let write = move |tx: &rusqlite::Transaction<'_>| {
            write(tx, &mut Random::new(seed));
            Ok(())
        };
        server.rooms.write("r", write).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let start = Instant::now();
    loop {
        let here = server.rooms.read("r", |conn| Ok(rows(conn))).await.unwrap();
        let mut there = Vec::new();
        for replica in &replicas {
            there.push(rows(&replica.lock().await.conn));
        }
        if there.iter().all(|rows| *rows == here) && lives.iter().all(|life| !life.is_finished()) {
            // Equal for good only if nothing is under way: nobody writes, and everybody has had time for a round trip.
            let quiet = replicas.iter().all(|replica| replica.try_lock().is_ok_and(|replica| replica.is_connected()));
            if quiet && start.elapsed() > Duration::from_millis(1_500) {
                break;
            }
        }
        assert!(start.elapsed() < Duration::from_secs(60), "seed {seed} does not converge: {here:#?} {there:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for life in lives {
        life.await.unwrap();
    }
}

#[tokio::test]
async fn clients_that_write_more_than_they_may_converge_on_what_the_server_has() {
    for seed in 5..7 {
        converge_with(seed, &[Some("foo"), None, Some("foo")]).await;
    }
}

#[tokio::test]
async fn two_clients_converge() {
    converge(1, 2).await;
}

#[tokio::test]
async fn three_clients_converge() {
    for seed in 2..4 {
        converge(seed, 3).await;
    }
}

#[tokio::test]
async fn six_clients_converge() {
    converge(4, 6).await;
}
