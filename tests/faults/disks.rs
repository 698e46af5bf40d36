//! Disks that are full or can't be written.

use std::time::Duration;

use crate::fixture::{Client, cells, until};
use crate::scene::{Scene, row};
use crate::volume::{Volume, with_mounts};

#[test]
fn a_full_disk_takes_no_changes_and_applies_no_half_of_them_until_there_is_space() {
    with_mounts(async {
        let volume = Volume::new(2);
        let mut scene = Scene::apart(volume.path(), |config| config).await;
        let mut author = scene.joins_at("r", 1, 0).await;
        let mut reader = scene.joins_at("r", 2, 0).await;
        author.push(0, &[row(1, "before", 1)]).await;
        assert_eq!(cells(&reader.changes().await), ["1.b='before'"]);
        let mut never_told = scene.joins_at("r", 3, 0).await;
        never_told.push(0, &[row(7, "before, too", 1)]).await;
        assert_eq!(cells(&reader.changes().await), ["7.b='before, too'"]);

        volume.fill();
        let large = "x".repeat(300_000);
        for _ in 0..2 {
            author.push(1, &[row(2, "with it", 2), row(3, &large, 2)]).await;
            scene.closes(&mut author, 1013, "disk is full").await;
            author = scene.joins_at("r", 1, 1).await;
        }
        let mut never_told = scene.announce("r", 3).await;
        let start = never_told.try_message().await;
        assert!(start.is_ok(), "who should be asked again, but can't be now, comes and reads: {start:?}");
        let refused = scene
            .server
            .rooms
            .write("r", move |tx| tx.execute("INSERT INTO foo (a, b) VALUES (9, ?1)", ["y".repeat(300_000)]));
        let refused = refused.await.unwrap_err();
        assert!(refused.to_string().contains("full"), "{refused}");
        let rows = scene.server.rows("r", "SELECT a FROM foo ORDER BY a").await;
        assert_eq!(rows, ["1", "7"], "what is there can be read");

        volume.free();
        author.push(1, &[row(2, "with it", 2), row(3, &large, 2)]).await;
        assert_eq!(reader.gather(2).await.len(), 2);
        scene.joins_at("r", 1, 2).await;
        scene.goes_on().await;
    });
}

#[test]
fn a_room_is_not_created_on_a_full_disk_and_is_once_there_is_space() {
    with_mounts(async {
        let volume = Volume::new(1);
        let mut scene = Scene::apart(volume.path(), |config| config).await;
        volume.fill();
        for _ in 0..2 {
            scene.refuses("r", 1, 1013, "disk is full").await;
        }
        volume.free();
        scene.joins_at("r", 1, 0).await.push(0, &[row(1, "x", 1)]).await;
        scene.server.has("r", "SELECT a FROM foo", &["1"]).await;
    });
}

#[test]
fn an_idle_room_closes_on_a_full_disk_and_opens_with_all_that_was_in_its_log() {
    with_mounts(async {
        let volume = Volume::new(2);
        let mut scene = Scene::apart(volume.path(), |config| config.with_room_idle(Duration::ZERO)).await;
        let mut author = scene.joins_at("r", 1, 0).await;
        let large = "x".repeat(300_000);
        author.push(0, &[row(1, &large, 1)]).await;
        scene.server.has("r", "SELECT length(b) FROM foo", &["300000"]).await;
        volume.fill();
        author.close().await;
        until("the room to close", async || scene.server.rooms.rooms().len() == 1).await;
        scene.goes_on().await;
        volume.free();
        let mut author = scene.joins_at("r", 1, 1).await;
        author.push(1, &[row(2, "y", 2)]).await;
        scene.server.has("r", "SELECT a FROM foo", &["1", "2"]).await;
    });
}

#[test]
fn a_disk_that_can_not_be_written_refuses_its_rooms_until_it_can() {
    with_mounts(async {
        let volume = Volume::new(2);
        let mut scene = Scene::apart(volume.path(), |config| config.with_room_idle(Duration::ZERO)).await;
        let mut author = scene.joins_at("r", 1, 0).await;
        author.push(0, &[row(1, "kept", 1)]).await;
        scene.server.has("r", "SELECT a FROM foo", &["1"]).await;
        let former = author.server;
        author.close().await;
        until("the room to close", async || scene.server.rooms.rooms().len() == 1).await;
        until("its files to be closed", async || !volume.path().join("r-wal").exists()).await;

        volume.set_read_only(true);
        for room in ["r", "r-new"] {
            scene.refuses(room, 1, 1013, "can't be written").await;
        }
        assert!(!crate::log::lines_about(volume.path()).is_empty(), "the log names the file");

        volume.set_read_only(false);
        assert_eq!(scene.joins_at("r", 1, 1).await.server, former);
        let mut reader: Client = scene.joins_at("r", 2, 0).await;
        assert_eq!(cells(&reader.changes().await), ["1.b='kept'"]);
        scene.joins_at("r-new", 1, 0).await;
    });
}
