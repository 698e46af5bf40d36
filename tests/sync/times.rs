//! Limits of time, by a clock that the test has in its hand: just within a limit nothing happens, just beyond it does.

use std::time::Duration;

use http::StatusCode;
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::{Error as WsError, Message as WsMessage};
use tower_sqlite_sync::{AuthRequest, Denied, Grant};
use tower_sqlite_sync_wire::{Change, Message, Value};

use crate::fixture::{Client, PIPE, Piped, cell, cells, last_version};

/// Just before and just after.
const MOMENT: Duration = Duration::from_millis(10);

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A row that is larger than what a pipe holds.
fn large() -> String {
    format!("INSERT INTO foo (a, b) VALUES (hex(randomblob(8)), zeroblob({}))", 4 * PIPE)
}

/// Takes what has come, and waits for nothing.
fn take(client: &mut Client<tokio::io::DuplexStream>) {
    let next = std::pin::pin!(client.next());
    drop(futures_util::FutureExt::now_or_never(next));
}

/// Lets all tasks run until each of them waits for something.
async fn for_all_to_come_as_far_as_they_can() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_announce_may_come_until_its_time_is_over() {
    let server = Piped::with(|config| config.with_announce_timeout(seconds(10)));
    let (mut prompt, mut late) = (server.connect("r", 1).await, server.connect("r", 2).await);
    sleep(seconds(10) - MOMENT).await;
    prompt.enter().await;
    sleep(2 * MOMENT).await;
    let (code, reason) = late.closed().await;
    assert!(code == 1002 && reason.contains("announce_timeout"), "{code} {reason}");
    assert_eq!(server.connections("r"), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_hook_may_take_until_its_time_is_over() {
    let server = |takes| {
        Piped::with_layer(
            |config| config.with_upgrade_timeout(seconds(10)),
            move |layer| {
                layer.authorize(move |_: AuthRequest| async move {
                    sleep(takes).await;
                    Ok::<_, Denied>(Grant::read_write())
                })
            },
        )
    };
    server(seconds(10) - MOMENT).join("r", 1).await;
    let refused = server(seconds(10) + MOMENT).try_connect("r", 1).await;
    assert!(matches!(refused, Err(WsError::Http(response)) if response.status() == StatusCode::SERVICE_UNAVAILABLE));
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_turn_to_ask_the_hook_is_part_of_its_time() {
    let server = Piped::with_layer(
        |config| config.with_upgrade_timeout(seconds(10)).with_hook_calls(1),
        |layer| {
            layer.authorize(async |_: AuthRequest| {
                sleep(seconds(4)).await;
                Ok::<_, Denied>(Grant::read_write())
            })
        },
    );
    let entering = (1..=3).map(|n| server.try_connect("r", n));
    let entered = futures_util::future::join_all(entering).await;
    let refused: Vec<&WsError> = entered.iter().filter_map(|result| result.as_ref().err()).collect();
    // At 4 and at 8 seconds; the third one would have its answer at 12.
    assert!(
        matches!(refused[..], [WsError::Http(response)] if response.status() == StatusCode::SERVICE_UNAVAILABLE),
        "{refused:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_peer_is_alive_if_a_byte_comes_within_two_heartbeats_and_gone_if_none_does() {
    let idle = seconds(5);
    let server = Piped::with(|config| config.with_heartbeat(seconds(10)).with_room_idle(idle));
    let mut talking = server.join("r", 1).await;
    let mut silent = server.join("quiet", 2).await;
    sleep(seconds(20) - MOMENT).await;
    assert_eq!(server.connections("quiet"), Some(1), "it has until then");
    talking.send_frame(WsMessage::Ping(bytes::Bytes::new())).await;
    sleep(2 * MOMENT).await;
    assert_eq!(server.connections("quiet"), Some(0), "a dead peer doesn't keep its room open");
    assert_eq!(server.connections("r"), Some(1));
    let (code, reason) = silent.closed().await;
    assert!(code == 1002 && reason.contains("heartbeat"), "{code} {reason}");
    sleep(seconds(10)).await;
    assert_eq!(server.connections("quiet"), None, "and nobody else does");
    // The next look at the clock after two heartbeats without a byte.
    sleep(seconds(10)).await;
    assert_eq!(server.connections("r"), Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_room_that_nobody_uses_stays_open_for_as_long_as_it_may_be_idle() {
    let server = Piped::with(|config| config.with_room_idle(seconds(60)));
    for _ in 0..2 {
        server.join("r", 1).await.close().await;
        sleep(seconds(60) - MOMENT).await;
        assert_eq!(server.connections("r"), Some(0));
    }
    sleep(2 * MOMENT).await;
    assert_eq!(server.connections("r"), None);
}

#[tokio::test(start_paused = true)]
async fn a_socket_may_take_nothing_until_its_time_is_over() {
    let config = |config: tower_sqlite_sync::SyncConfig| {
        config.with_slow_reader_timeout(seconds(50)).with_heartbeat(seconds(100_000))
    };
    let server = Piped::with(config);
    let mut slow = server.join("r", 1).await;
    let _stuck = server.join("r", 2).await;
    server.write("r", &large()).await;
    sleep(seconds(50) - MOMENT).await;
    assert_eq!(server.connections("r"), Some(2));
    take(&mut slow);
    sleep(2 * MOMENT).await;
    assert_eq!(server.connections("r"), Some(1), "who takes something has as much time again");
    sleep(seconds(50) - 4 * MOMENT).await;
    assert_eq!(server.connections("r"), Some(1));
    sleep(4 * MOMENT).await;
    assert_eq!(server.connections("r"), Some(0));
    let (code, reason) = slow.closed().await;
    assert!(code == 1013 && reason.contains("slow_reader_timeout"), "{code} {reason}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_on_is_sent_the_rest_at_once_however_long_it_has_not() {
    let config = |config: tower_sqlite_sync::SyncConfig| {
        config.with_slow_reader_timeout(seconds(100_000)).with_heartbeat(seconds(100_000))
    };
    let server = Piped::with(config);
    let mut client = server.join("r", 1).await;
    for _ in 0..50 {
        server.write("r", &large()).await;
        sleep(seconds(20)).await;
    }
    let reading = Instant::now();
    let (mut rows, mut at) = (0, 0);
    while rows < 50 {
        let message = client.changes().await;
        assert_eq!(message.since.db_version, at);
        (rows, at) = (rows + message.changes.len(), last_version(&message));
    }
    assert_eq!(reading.elapsed(), Duration::ZERO, "no timer had to come first");
}

#[tokio::test(start_paused = true)]
async fn a_changeset_waits_for_its_place_in_the_queue_until_its_time_is_over() {
    for (waits, applied) in [(seconds(30) - MOMENT, 2), (seconds(30) + MOMENT, 1)] {
        let server = Piped::with(|config| config.with_queue_changesets(1).with_queue_wait(seconds(30)));
        let mut reader = server.join("r", 9).await;
        let mut authors = [server.join("r", 1).await, server.join("r", 2).await];
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (started, running) = tokio::sync::oneshot::channel();
        let rooms = server.rooms.clone();
        let busy = move |_: &rusqlite::Transaction<'_>| {
            started.send(()).unwrap();
            released.recv().ok();
            Ok(())
        };
        tokio::spawn(async move { rooms.write("r", busy).await });
        running.await.unwrap();
        // One in the queue, and one that waits for its place. While the writer is at work, the clock stands still by itself.
        for (author, row) in authors.iter_mut().zip(1..) {
            author.push(0, &[cell(row, "b", Value::Null, 1)]).await;
        }
        for_all_to_come_as_far_as_they_can().await;
        tokio::time::advance(waits).await;
        for_all_to_come_as_far_as_they_can().await;
        drop(release);
        assert_eq!(reader.gather(applied).await.len(), applied);
        if applied == 1 {
            let (code, reason) = authors[1].closed().await;
            assert!(code == 1013 && reason.contains("queue_wait"), "{code} {reason}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_notify_interval_lies_between_two_messages_and_not_before_the_first() {
    let server = Piped::with(|config| config.with_notify_interval(seconds(3)));
    let mut client = server.join("r", 1).await;
    sleep(seconds(10)).await;
    let start = Instant::now();
    for k in 1..=3 {
        server.write("r", &format!("INSERT INTO foo (a, b) VALUES ({k}, 'x')")).await;
        if k == 1 {
            assert_eq!(cells(&client.changes().await), ["1.b='x'"]);
            assert_eq!(start.elapsed(), Duration::ZERO);
        }
    }
    assert_eq!(cells(&client.changes().await), ["2.b='x'", "3.b='x'"]);
    let waited = start.elapsed();
    assert!(waited >= seconds(3) && waited <= seconds(3) + MOMENT, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_site_whose_changes_are_refused_again_is_asked_for_them_later_each_time_and_at_once_after_good_ones() {
    let server = Piped::with(|config| config);
    let bad = Change { table: "none", ..cell(1, "b", Value::Null, 1) };
    let (mut waits, mut seen) = (Vec::new(), Vec::new());
    for round in 0..11 {
        let start = Instant::now();
        let mut author = server.connect("r", 1).await;
        author.announce(&seen).await;
        let site = author.start_streaming().await.exclude_sites[0];
        waits.push(start.elapsed().as_secs());
        if round == 8 {
            seen = vec![(site, 1)];
            author.push(0, &[cell(1, "b", Value::Null, 1)]).await;
        }
        author.push(0, &[bad]).await;
        assert_eq!(author.closed().await.0, 1008);
    }
    assert_eq!(waits, [0, 2, 4, 8, 16, 32, 64, 120, 120, 2, 4]);
}

#[tokio::test(start_paused = true)]
async fn what_a_client_asks_for_again_and_again_comes_later_each_time_and_never_later_than_in_ten_seconds() {
    let server = Piped::with(|config| config);
    let mut reader = server.join("r", 1).await;
    server.write("r", "INSERT INTO foo (a, b) VALUES (1, 'x')").await;
    reader.changes().await;
    let mut waits = Vec::new();
    for _ in 0..12 {
        let start = Instant::now();
        reader.reject(0).await;
        assert_eq!(cells(&reader.changes().await), ["1.b='x'"]);
        waits.push(start.elapsed().as_millis() / 100);
    }
    assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 64, 100, 100, 100, 100], "tenths of a second");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_a_gap_again_and_again_is_told_so_later_each_time_and_every_half_minute_at_most() {
    let server = Piped::with(|config| config);
    let mut author = server.join("r", 1).await;
    let (start, mut told) = (Instant::now(), Vec::new());
    while told.len() < 8 {
        author.push(5, &[cell(1, "b", Value::Null, 6)]).await;
        tokio::select! {
            message = author.next() => {
                assert!(matches!(message, Message::StartStreaming(_)), "{message:?}");
                told.push(start.elapsed().as_secs());
            }
            () = sleep(Duration::from_millis(500)) => {}
        }
    }
    assert_eq!(told, [0, 1, 3, 7, 15, 31, 61, 91]);
}
