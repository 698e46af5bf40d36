//! How far a node's copy of a room has come: what LiteFS says in the file `<room>-pos`.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tokio::time::Instant;

use crate::room::RoomName;

/// How often a position is read by those who wait for it. There are no events: LiteFS is a FUSE file system.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Hexadecimal digits of a transaction id, and the most that are looked at of what follows.
const DIGITS: usize = 16;
const MAX_BYTES: u64 = 128;

/// A LiteFS transaction of one database. The next one is greater by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TxId(pub(crate) u64);

impl fmt::Display for TxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// How far a copy has come, and which of the files it is that may be so far: two primaries that followed each other may both have
/// committed a transaction of that number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) txid: TxId,
    /// Of the file with this transaction.
    checksum: u64,
}

impl FromStr for Position {
    type Err = io::Error;

    /// Takes the content of a position file: the transaction in 16 hexadecimal digits, a slash and the checksum.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "not `<16 hexadecimal digits>/<checksum>`");
        let (txid, checksum) = text.trim_end().split_once('/').ok_or_else(malformed)?;
        let is_hex = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if txid.len() != DIGITS || !is_hex(txid) || !is_hex(checksum) {
            return Err(malformed());
        }
        let number = |digits| u64::from_str_radix(digits, 16).map_err(|_| malformed());
        Ok(Self { txid: TxId(number(txid)?), checksum: number(checksum)? })
    }
}

/// A room's position can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PositionError {
    #[error("the position of room {room} can't be read: {source}")]
    Unreadable { room: RoomName, source: io::Error },
    #[error("{}", late(room, *wanted, *here))]
    Late { room: RoomName, wanted: TxId, here: Option<TxId> },
}

/// What is missing of a copy, and where to look.
fn late(room: &RoomName, wanted: TxId, here: Option<TxId>) -> String {
    match here {
        Some(here) => format!(
            "the copy of room {room} here is at transaction {here} and did not come to {wanted} in time: is LiteFS on this node \
             connected to that of the primary?"
        ),
        None if wanted == TxId(0) => format!(
            "room {room} did not come here, and {room}-pos is missing in the primary's folder too: is that the folder which LiteFS \
             mounts there?"
        ),
        None => format!(
            "room {room}, which the primary has up to transaction {wanted}, did not come here in time ({room}-pos is missing): is \
             LiteFS on this node connected to that of the primary, and is this the folder which it mounts?"
        ),
    }
}

/// The last transaction of `room` in `folder`. `None` if LiteFS doesn't have the room here yet.
///
/// # Errors
///
/// [`PositionError::Unreadable`] if the file is there, and can't be read or is malformed.
pub(crate) async fn read(folder: &Path, room: &RoomName) -> Result<Option<TxId>, PositionError> {
    let path = path(folder, room);
    let read = tokio::task::spawn_blocking(move || read_file(&path)).await.unwrap_or_else(|e| Err(e.into()));
    read.map(|position| position.map(|position| position.txid))
        .map_err(|source| PositionError::Unreadable { room: room.clone(), source })
}

/// Waits until the copy of `room` in `folder` holds the transaction `wanted`.
///
/// # Errors
///
/// [`PositionError::Late`] at `deadline`, [`PositionError::Unreadable`] as from [`read`].
pub(crate) async fn wait_for(
    folder: &Path,
    room: &RoomName,
    wanted: TxId,
    deadline: Instant,
) -> Result<(), PositionError> {
    let mut here = None;
    let reached = async {
        loop {
            here = read(folder, room).await?;
            if here.is_some_and(|txid| txid >= wanted) {
                return Ok(());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    let reached = tokio::time::timeout_at(deadline, reached).await;
    reached.unwrap_or_else(|_| Err(PositionError::Late { room: room.clone(), wanted, here }))
}

/// The position file of `room`.
pub(super) fn path(folder: &Path, room: &RoomName) -> PathBuf {
    folder.join(format!("{room}-pos"))
}

pub(super) fn read_file(path: &Path) -> io::Result<Option<Position>> {
    let mut text = String::new();
    match File::open(path) {
        Ok(file) => file.take(MAX_BYTES).read_to_string(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    text.parse().map(Some)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    fn room() -> RoomName {
        RoomName::parse("a").unwrap()
    }

    /// Writes a file as LiteFS shows it: whole, or not at all.
    fn put(file: &Path, text: &str) {
        let new = file.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, file).unwrap();
    }

    proptest! {
        #[test]
        fn every_position_is_read(id: u64, checksum: u64) {
            let position = format!("{id:016x}/{checksum:016x}\n").parse::<Position>().unwrap();
            prop_assert_eq!(position, Position { txid: TxId(id), checksum });
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            drop(text.parse::<Position>());
        }
    }

    #[test]
    fn what_is_not_a_position_is_an_error() {
        for text in
            ["", "/", "1/1", "000000000000000g/0", "0000000000000001", "0000000000000001/", "+000000000000001/0"]
        {
            assert!(text.parse::<Position>().is_err(), "{text:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_room_without_a_position_file_is_not_here_yet() {
        let folder = TempDir::new().unwrap();
        assert_eq!(read(folder.path(), &room()).await.unwrap(), None);
        fs::write(folder.path().join("a-pos"), "what").unwrap();
        let error = read(folder.path(), &room()).await.unwrap_err();
        assert!(error.to_string().starts_with("the position of room a can't be read: not `<16"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_ends_when_the_file_appears_and_has_come_far_enough() {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("a-pos");
        let deadline = Instant::now() + Duration::from_secs(10);
        let appear = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            put(&file, "0000000000000004/0");
            tokio::time::sleep(Duration::from_secs(1)).await;
            put(&file, "0000000000000005/0");
            Instant::now()
        };
        let room = room();
        let wait = async {
            wait_for(folder.path(), &room, TxId(5), deadline).await.unwrap();
            Instant::now()
        };
        let (written, waited) = tokio::join!(appear, wait);
        assert!(waited >= written && waited <= written + POLL_INTERVAL);
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_ends_at_its_deadline_and_says_what_is_missing() {
        let folder = TempDir::new().unwrap();
        let wait = async |wanted: u64| {
            let deadline = Instant::now() + Duration::from_secs(10);
            let error = wait_for(folder.path(), &room(), TxId(wanted), deadline).await.unwrap_err();
            assert!(Instant::now() >= deadline);
            error.to_string()
        };
        let error = wait(5).await;
        assert!(
            error.contains("room a, which the primary has up to transaction 0000000000000005, did not come"),
            "{error}"
        );
        let error = wait(0).await;
        assert!(error.contains("a-pos is missing in the primary's folder too"), "{error}");
        put(&folder.path().join("a-pos"), "0000000000000003/0");
        let error = wait(5).await;
        assert!(error.contains("is at transaction 0000000000000003 and did not come to 0000000000000005"), "{error}");
    }
}
