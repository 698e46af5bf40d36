//! A database's log, as a server that died has left it.
//!
//! SQLite takes a log up to the first frame that doesn't check, and says nothing of what follows: usually that is what was being
//! written when the process died. But if a transaction was committed behind that frame, the log was damaged later, and what SQLite
//! makes of the file is an earlier state than clients were shown. <https://sqlite.org/fileformat2.html#walformat>

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
const MAX_PAGE: u32 = 65_536;

/// Where the log of a database is.
pub(super) fn path_of(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push("-wal");
    path.into()
}

/// Whether the log lacks something that was committed. A log that isn't there, or is empty, lacks nothing. Of the last transaction
/// this can't tell, for that one may have been under way.
///
/// Call it before the log is written to, and while nobody can.
pub(super) fn is_damaged(log: &Path) -> io::Result<bool> {
    match File::open(log) {
        Ok(file) if file.metadata()?.len() == 0 => Ok(false),
        Ok(file) => scan(BufReader::with_capacity(1 << 16, file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn scan(mut log: impl Read) -> io::Result<bool> {
    let mut header = [0; HEADER];
    if !fill(&mut log, &mut header)? {
        return Ok(true);
    }
    let [magic, _version, page_size, _sequence, salt_1, salt_2, sum_1, sum_2] = words(&header);
    let mut sum = Checksum { big_endian: magic & 1 == 1, words: (0, 0) };
    sum.add(header.get(..24).unwrap_or_default());
    let is_sound = magic & !1 == 0x377f_0682 && sum.words == (sum_1, sum_2);
    if !is_sound || !page_size.is_power_of_two() || page_size > MAX_PAGE {
        return Ok(true);
    }
    let mut page = vec![0; usize::try_from(page_size).unwrap_or_default()];
    let mut frame = [0; FRAME_HEADER];
    let mut is_whole = true;
    while fill(&mut log, &mut frame)? && fill(&mut log, &mut page)? {
        let [_page, pages_after_commit, frame_salt_1, frame_salt_2, sum_1, sum_2] = words(&frame);
        let is_ours = (frame_salt_1, frame_salt_2) == (salt_1, salt_2);
        // What is left of a transaction that was rolled back has no end.
        if !is_whole && is_ours && pages_after_commit != 0 {
            return Ok(true);
        }
        sum.add(frame.get(..8).unwrap_or_default());
        sum.add(&page);
        is_whole &= is_ours && sum.words == (sum_1, sum_2);
    }
    Ok(false)
}

/// Reads as much as fits; false if there is less.
fn fill(log: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match log.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    words
}

/// The checksum over all that precedes.
struct Checksum {
    big_endian: bool,
    words: (u32, u32),
}

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        let word = |bytes: [u8; 4]| if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
        let (mut one, mut two) = self.words;
        for [first, second] in bytes.as_chunks::<4>().0.as_chunks::<2>().0 {
            one = one.wrapping_add(word(*first)).wrapping_add(two);
            two = two.wrapping_add(word(*second)).wrapping_add(one);
        }
        self.words = (one, two);
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    const FRAME: usize = FRAME_HEADER + 4096;

    /// The log of a database with some transactions, one of them rolled back after it was written to the log.
    fn log() -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA cache_size = 2; CREATE TABLE t (x)").unwrap();
        let fill = "INSERT INTO t SELECT randomblob(3000) FROM json_each('[1,2,3,4,5,6,7,8,9]')";
        for end in ["COMMIT", "COMMIT", "ROLLBACK"] {
            conn.execute_batch(&format!("BEGIN; {fill}; {end}")).unwrap();
        }
        conn.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        std::fs::read(path_of(&path)).unwrap()
    }

    fn is_damaged(log: &[u8]) -> bool {
        scan(log).unwrap()
    }

    #[test]
    fn what_sqlite_writes_is_sound_wherever_it_ends() {
        let log = log();
        assert!(!is_damaged(&log));
        for end in (HEADER..log.len()).step_by(1000) {
            assert!(!is_damaged(&log[..end]), "{end}");
        }
    }

    #[test]
    fn a_bit_that_changed_before_the_last_transaction_is_damage() {
        let log = log();
        let frames = log[HEADER..].chunks_exact(FRAME);
        let commits: Vec<usize> =
            frames.enumerate().filter(|(_, frame)| frame[4..8] != [0; 4]).map(|(i, _)| i).collect();
        let first_of_last = commits[commits.len() - 2] + 1;
        for at in (0..24).chain((HEADER..HEADER + first_of_last * FRAME).step_by(499)) {
            let mut log = log.clone();
            log[at] ^= 1;
            // Of a frame's header, its page's number and the commit are what the checksum is of; the salts are compared.
            assert!(is_damaged(&log), "{at}");
        }
    }

    #[test]
    fn garbage_is_damage() {
        assert!(is_damaged(&[0; 1]) && is_damaged(&[0; 5000]) && is_damaged(&[0x5a; 5000]));
    }

    #[test]
    fn no_log_is_none() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!super::is_damaged(&folder.path().join("none")).unwrap());
        std::fs::write(folder.path().join("empty"), "").unwrap();
        assert!(!super::is_damaged(&folder.path().join("empty")).unwrap());
    }
}
