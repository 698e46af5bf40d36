//! Files that are damaged, locked or gone.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use tokio_tungstenite::tungstenite::Message as WsMessage;
use tower_sqlite_sync_wire::schema_version;

use crate::fixture::{Client, SCHEMA, Server, cells, until};
use crate::log;
use crate::scene::{Scene, row};

const PAGE: u64 = 4096;

/// A scene whose room `r` has some pages of rows, and is closed.
async fn closed_room() -> Scene {
    let scene = Scene::new(|config| config.with_room_idle(Duration::ZERO)).await;
    let mut author = scene.joins_at("r", 1, 0).await;
    let text = "x".repeat(500);
    let rows: Vec<_> = (1..=100).map(|k| row(k, &text, 1)).collect();
    author.push(0, &rows).await;
    scene.server.has("r", "SELECT count(*) FROM foo", &["100"]).await;
    author.close().await;
    is_closed(&scene.server).await;
    scene
}

async fn is_closed(server: &Server) {
    until("the room to close", async || server.rooms.rooms().iter().all(|room| room.name.as_str() != "r")).await;
    until("its files to be closed", async || !server.file("r-wal").exists()).await;
}

fn overwrite(file: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(file).unwrap().write_all_at(bytes, at).unwrap();
}

/// Overwrites the pages in which the rows of table `foo` are.
fn damage_rows(file: &Path) {
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'foo'";
    let root: i64 = Connection::open(file).unwrap().query_row(sql, [], |row| row.get(0)).unwrap();
    overwrite(file, (u64::try_from(root).unwrap() - 1) * PAGE, &[0xff; 200]);
}

fn is_logged(file: &Path) {
    let lines = log::lines_about(file);
    assert!(lines.iter().any(|line| line.contains("ERROR") && line.contains("backup")), "{lines:#?}");
}

#[tokio::test]
async fn a_file_with_a_damaged_header_is_refused_and_left_as_it_is() {
    let mut scene = closed_room().await;
    let file = scene.server.file("r");
    let sound = fs::read(&file).unwrap();
    overwrite(&file, 0, &[0xff; 100]);
    let damaged = fs::read(&file).unwrap();
    for _ in 0..2 {
        scene.refuses("r", 1, 1011, "damaged").await;
    }
    is_logged(&file);
    assert!(fs::read(&file).unwrap() == damaged, "the file was changed");
    fs::write(&file, sound).unwrap();
    let mut reader = scene.announce("r", 2).await;
    reader.start_streaming().await;
    assert_eq!(cells(&reader.changes().await).len(), 100);
}

#[tokio::test]
async fn a_damaged_page_ends_its_room_until_a_sound_file_is_in_its_place_and_then_it_forks() {
    let mut scene = closed_room().await;
    let file = scene.server.file("r");
    let sound = fs::read(&file).unwrap();
    damage_rows(&file);
    let former = {
        let mut author = scene.announce("r", 1).await;
        let former = author.start_streaming().await.exclude_sites[0];
        // It is met by whoever comes first, the reader or the writer.
        let more = author.changes_message(1, &[row(101, "more", 2)]);
        drop(author.try_send_frame(WsMessage::Binary(more.encode())).await);
        scene.closes(&mut author, 1011, "damaged").await;
        former
    };
    is_logged(&file);
    // It is not opened again as long as it is damaged, however often clients come back.
    for _ in 0..3 {
        scene.refuses("r", 1, 1011, "damaged").await;
    }
    is_closed(&scene.server).await;
    fs::write(&file, sound).unwrap();
    // It is not read as a whole for everybody who asks.
    until("the room to be looked at again", async || scene.announce("r", 2).await.try_message().await.is_ok()).await;
    let mut author = scene.joins_at("r", 1, 1).await;
    assert_ne!(author.server, former, "what is there now may be an earlier one");
    author.push(1, &[row(101, "more", 2)]).await;
    scene.server.has("r", "SELECT count(*) FROM foo", &["101"]).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn a_damaged_page_that_only_a_reader_meets_ends_the_room_too() {
    let mut scene = closed_room().await;
    damage_rows(&scene.server.file("r"));
    let mut reader = scene.announce("r", 2).await;
    scene.closes(&mut reader, 1011, "damaged").await;
    is_logged(&scene.server.file("r"));
    scene.refuses("r", 1, 1011, "damaged").await;
}

#[tokio::test]
async fn a_room_that_ended_damaged_is_checked_before_it_forks() {
    let mut scene = closed_room().await;
    let file = scene.server.file("r");
    let sound = fs::read(&file).unwrap();
    damage_rows(&file);
    // Somebody still uses the room when it has ended.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let rooms = scene.server.rooms.clone();
    let user = tokio::spawn(async move { rooms.read("r", move |_| Ok(wait.recv().is_err())).await });
    let mut reader = scene.announce("r", 2).await;
    scene.closes(&mut reader, 1011, "damaged").await;
    assert!(scene.server.rooms.fork("r").await.is_err());
    drop(go);
    assert!(user.await.unwrap().unwrap());
    is_closed(&scene.server).await;
    fs::write(&file, sound).unwrap();
    until("the next check", async || scene.server.rooms.fork("r").await.is_ok()).await;
    scene.server.has("r", "SELECT count(*) FROM foo", &["100"]).await;
}

#[tokio::test]
async fn a_file_that_is_cut_off_is_refused_and_so_is_one_that_is_cut_off_while_it_is_open() {
    let mut scene = closed_room().await;
    let file = scene.server.file("r");
    let sound = fs::read(&file).unwrap();
    for pages in [1, 5] {
        OpenOptions::new().write(true).open(&file).unwrap().set_len(pages * PAGE).unwrap();
        let mut reader = scene.announce("r", 2).await;
        scene.closes(&mut reader, 1011, "damaged").await;
        is_logged(&file);
        is_closed(&scene.server).await;
        fs::write(&file, &sound).unwrap();
    }

    let mut open = scene.announce("r", 2).await;
    open.start_streaming().await;
    open.changes().await;
    OpenOptions::new().write(true).open(&file).unwrap().set_len(5 * PAGE).unwrap();
    let mut author = scene.announce("r", 1).await;
    author.push(1, &[row(1, "more", 2)]).await;
    scene.closes(&mut author, 1011, "damaged").await;
    scene.closes(&mut open, 1011, "damaged").await;
}

#[tokio::test]
async fn a_file_that_is_removed_while_it_is_open_ends_the_room_and_the_next_client_brings_it_back() {
    let mut scene = Scene::new(|config| config).await;
    let mut author = scene.joins_at("r", 1, 0).await;
    author.push(0, &[row(1, "kept", 1)]).await;
    scene.server.has("r", "SELECT a FROM foo", &["1"]).await;
    for suffix in ["", "-wal", "-shm"] {
        fs::remove_file(scene.server.file(&format!("r{suffix}"))).unwrap();
    }
    scene.closes(&mut author, 1001, "connect again").await;
    let mut again = scene.joins_at("r", 1, 0).await;
    assert_ne!(again.server, author.server);
    again.push(0, &[row(1, "kept", 1)]).await;
    scene.server.has("r", "SELECT b FROM foo", &["'kept'"]).await;
}

#[tokio::test]
async fn a_locked_file_is_waited_for_and_then_its_clients_are_asked_to_come_later() {
    let mut scene =
        Scene::new(|config| config.with_busy_timeout(Duration::from_millis(100)).with_room_idle(Duration::ZERO)).await;
    let mut author = scene.joins_at("r", 1, 0).await;
    author.push(0, &[row(1, "kept", 1)]).await;
    scene.server.has("r", "SELECT a FROM foo", &["1"]).await;
    let file = scene.server.file("r");
    let other = Connection::open(&file).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    author.push(1, &[row(2, "more", 2)]).await;
    scene.closes(&mut author, 1013, "locked").await;
    other.execute_batch("ROLLBACK").unwrap();
    let mut author = scene.joins_at("r", 1, 1).await;
    author.push(1, &[row(2, "more", 2)]).await;
    scene.server.has("r", "SELECT a FROM foo", &["1", "2"]).await;
    author.close().await;
    drop(other);
    is_closed(&scene.server).await;

    // Nobody else may even open it.
    let other = Connection::open(&file).unwrap();
    other.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE").unwrap();
    scene.refuses("r", 1, 1013, "locked").await;
    drop(other);
    scene.joins_at("r", 1, 2).await;
}

#[tokio::test]
async fn a_log_that_is_damaged_is_told_of_and_its_room_forks() {
    let scene = Scene::new(|config| config).await;
    let mut author = scene.joins_at("r", 1, 0).await;
    for version in 1..=8 {
        author.push(version - 1, &[row(u8::try_from(version).unwrap(), "x", version)]).await;
        scene.server.has("r", "SELECT count(*) FROM foo", &[&version.to_string()]).await;
    }
    let (file, log) = (scene.server.file("r"), scene.server.file("r-wal"));
    let (whole, pages) = (fs::read(&file).unwrap(), fs::read(&log).unwrap());
    drop(scene);

    let first_page = 32 + 24;
    for (at, bytes) in [(0, vec![0x5a; 5_000]), (0, vec![0; 32]), (first_page + 100, vec![0xff; 50])] {
        let mut scene = Scene::new(|config| config).await;
        fs::write(scene.server.file("r"), &whole).unwrap();
        fs::write(scene.server.file("r-wal"), &pages).unwrap();
        overwrite(&scene.server.file("r-wal"), at, &bytes);
        let mut back = scene.announce("r", 1).await;
        // Of the schema, something may be left or nothing; of the site that clients knew, nothing is.
        let start = back.start_streaming().await;
        assert_ne!(start.exclude_sites[0], author.server, "{at}");
        assert!(start.since.db_version < 8);
        back.push(start.since.db_version, &[row(9, "y", 9)]).await;
        scene.server.has("r", "SELECT b FROM foo WHERE a = 9", &["'y'"]).await;
        let lines = log::lines_about(&scene.server.file("r-wal"));
        assert!(lines.iter().any(|line| line.contains("WARN")), "{lines:#?}");
        scene.goes_on().await;
    }

    // As a server that is killed leaves it, it is sound.
    let scene = Scene::new(|config| config).await;
    fs::write(scene.server.file("r"), &whole).unwrap();
    fs::write(scene.server.file("r-wal"), &pages).unwrap();
    assert_eq!(scene.joins_at("r", 1, 8).await.server, author.server);
}

#[tokio::test]
async fn a_schema_file_that_is_gone_or_unreadable_hinders_new_rooms_only() {
    let mut scene = closed_room().await;
    let schema = scene.server.folder.path().join("schemas/main.sql");
    fs::remove_file(&schema).unwrap();
    scene.refuses("new", 1, 4400, "schema folder").await;
    scene.joins_at("r", 1, 1).await;
    fs::create_dir(&schema).unwrap();
    scene.refuses("new", 1, 4400, "can't be read").await;
    fs::remove_dir(&schema).unwrap();
    fs::write(&schema, SCHEMA).unwrap();
    // It is not looked for with every client that comes again.
    until("the schema to be looked for again", async || scene.announce("new", 2).await.try_message().await.is_ok())
        .await;
    scene.joins_at("new", 1, 0).await;
    let mut newer = Client::connect(&scene.server, "r", 3).await;
    newer.announce_schema("main.sql", schema_version("something else"), &[]).await;
    scene.closes(&mut newer, 4400, "").await;
}
