//! A disk that fails when a new room's first changes are to be made durable.

use std::ffi::OsStr;

use rusqlite::Connection;
use tower_sqlite_sync_wire::Value;

use crate::fixture::{Client, ClientOptions, cell, cells};
use crate::process::Process;
use crate::remains::check_integrity;
use crate::steps::preloaded;

#[tokio::test]
async fn changes_that_can_not_be_synced_are_shown_to_nobody_and_taken_when_they_come_again() {
    let library = preloaded();
    let environment = [("LD_PRELOAD", library.as_os_str()), ("FAIL_SYNC_OF", OsStr::new("/dbs/r-wal"))];
    let mut process = Process::start_with(&environment).await;
    let join = async |n: u8| {
        let mut client = Client::connect_with(process.address(), "r", n, ClientOptions::default()).await;
        client.announce(&[]).await;
        client
    };
    let (mut writer, mut reader) = (join(1).await, join(2).await);
    writer.start_streaming().await;
    reader.start_streaming().await;
    writer.push(0, &[cell(1, "b", Value::Text("x"), 1)]).await;
    for client in [&mut reader, &mut writer] {
        let ended = client.next_or_end().await;
        assert!(matches!(ended, Err(Some((1011, _)))), "{ended:?}");
    }

    let (mut writer, mut reader) = (join(1).await, join(2).await);
    writer.start_streaming().await;
    reader.start_streaming().await;
    writer.push(0, &[cell(1, "b", Value::Text("x"), 1), cell(2, "b", Value::Text("y"), 2)]).await;
    let mut shown = Vec::new();
    while shown.len() < 2 {
        shown.extend(cells(&reader.changes().await));
    }
    assert_eq!(shown, ["1.b='x'", "2.b='y'"]);
    process.end().await;
    let file = process.file("r");
    check_integrity(&file);
    let rows: i64 =
        Connection::open(&file).unwrap().query_row("SELECT count(*) FROM foo", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 2);
}
