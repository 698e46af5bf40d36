//! A run of whole db_versions, encoded once for every connection that will be sent it.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rusqlite::Connection;
use tower_sqlite_sync_wire as wire;

use super::{convert, yielding};

/// All that changed in the db_versions `after < v <= upto`, as encoded changes in (db_version, seq) order.
///
/// A frame ends at the border of a db_version, because a peer's position can't end inside one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The frame starts behind this db_version.
    pub(crate) after: i64,
    /// Whoever has the frame has everything up to this db_version.
    pub(crate) upto: i64,
    runs: Vec<Run>,
    bytes: Bytes,
}

/// Neighbouring changes of one author.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    author: Option<crr::SiteId>,
    count: usize,
    last_version: i64,
    bytes: Range<usize>,
}

/// What one connection is sent of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selection {
    count: usize,
    last_version: i64,
    /// The encoded changes, one part after the other. They are the frame's own bytes: however many connections are sent a large
    /// row, it is held once.
    parts: Vec<Bytes>,
}

impl Frame {
    /// Reads and encodes what follows `after`, up to `upto` at most, in about `max_bytes`. A single db_version that is larger is read
    /// whole. Call it inside a read transaction.
    pub(crate) fn read(
        conn: &Connection,
        after: i64,
        upto: i64,
        exclude: Option<crr::SiteId>,
        max_bytes: usize,
    ) -> crr::Result<Self> {
        let mut frame = FrameBuilder::new(max_bytes);
        let query = crr::ChangesQuery { after, up_to: Some(upto), exclude };
        let mut numbers = 0..;
        crr::Crr::of(conn)?.read_changes(&query, |change| {
            numbers.next().inspect(|number| yielding::after_change(*number));
            frame.push(&change)
        })?;
        Ok(frame.finish(after, upto))
    }

    /// Encodes what has won in the transaction of the db_versions `after < v <= upto`, as [`read`](Self::read) would read it.
    pub(crate) fn of(winners: &crr::Winners, after: i64, upto: i64, max_bytes: usize) -> Self {
        let mut frame = FrameBuilder::new(max_bytes);
        // If it breaks off, it is full.
        let _ = winners.iter().try_for_each(|change| frame.push(&change));
        frame.finish(after, upto)
    }

    /// A frame of that many bytes that are no changes.
    #[cfg(test)]
    pub(crate) fn of_size(after: i64, upto: i64, bytes: usize) -> Self {
        Self { after, upto, runs: Vec::new(), bytes: vec![0; bytes].into() }
    }

    /// This frame in the memory of another one, if both have the same changes. They may begin in different places, with nothing there.
    pub(crate) fn sharing(&self, other: &Self) -> Option<Self> {
        let same = (self.upto, &self.runs, &self.bytes) == (other.upto, &other.runs, &other.bytes);
        same.then(|| Self { after: self.after, upto: self.upto, runs: self.runs.clone(), bytes: other.bytes.clone() })
    }

    #[cfg(test)]
    pub(crate) fn shares_with(&self, other: &Self) -> bool {
        self.bytes.as_ptr() == other.bytes.as_ptr()
    }

    /// Bytes of encoded changes.
    pub(crate) fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that the frame holds in memory. Not even a frame without changes is free.
    pub(crate) fn footprint(&self) -> usize {
        size_of::<Self>() + size_of_val(self.runs.as_slice()) + self.bytes.len()
    }

    /// The frame without the changes that `site` wrote itself; `None` if nothing is left.
    pub(crate) fn without(&self, site: crr::SiteId) -> Option<Selection> {
        let others = || self.runs.iter().filter(|run| run.author != Some(site));
        let last_version = others().next_back()?.last_version;
        let count = others().map(|run| run.count).sum();
        let mut kept: Vec<Range<usize>> = Vec::new();
        for run in others() {
            match kept.last_mut() {
                Some(last) if last.end == run.bytes.start => last.end = run.bytes.end,
                _ => kept.push(run.bytes.clone()),
            }
        }
        let parts = kept.into_iter().map(|range| self.bytes.slice(range)).collect();
        Some(Selection { count, last_version, parts })
    }

    /// Only the last change, whoever wrote it; `None` if there are none.
    pub(crate) fn last(&self) -> Option<Selection> {
        let run = self.runs.last()?;
        let changes = wire::ChangeList::from_encoded(run.count, self.bytes.slice(run.bytes.clone())).ok()?;
        let mut last = BytesMut::new();
        changes.iter().last()?.encode_into(&mut last);
        Some(Selection { count: 1, last_version: run.last_version, parts: vec![last.freeze()] })
    }
}

/// Encodes changes until the frame is full.
struct FrameBuilder {
    max_bytes: usize,
    runs: Vec<Run>,
    bytes: BytesMut,
    /// The frame as it was before the db_version that is being added.
    border: Option<Border>,
    /// Where the frame was cut because it was full: everything up to this db_version is in it.
    cut: Option<i64>,
}

/// The end of a db_version inside a frame that is being built.
struct Border {
    runs: usize,
    last: Run,
    bytes: usize,
}

impl FrameBuilder {
    fn new(max_bytes: usize) -> Self {
        Self { max_bytes, runs: Vec::new(), bytes: BytesMut::new(), border: None, cut: None }
    }

    fn push(&mut self, change: &crr::Change<'_>) -> ControlFlow<()> {
        if let Some(last) = self.runs.last()
            && last.last_version != change.db_version
        {
            self.border = Some(Border { runs: self.runs.len(), last: last.clone(), bytes: self.bytes.len() });
        }
        let start = self.bytes.len();
        convert::outgoing(change).encode_into(&mut self.bytes);
        let end = self.bytes.len();
        if end > self.max_bytes
            && let Some(border) = self.border.take()
        {
            self.cut_at(border);
            return ControlFlow::Break(());
        }
        match self.runs.last_mut() {
            Some(run) if run.author == change.site_id => {
                run.count += 1;
                run.last_version = change.db_version;
                run.bytes.end = end;
            }
            _ => self.runs.push(Run {
                author: change.site_id,
                count: 1,
                last_version: change.db_version,
                bytes: start..end,
            }),
        }
        ControlFlow::Continue(())
    }

    /// Takes back the db_version that did not fit.
    fn cut_at(&mut self, border: Border) {
        self.cut = Some(border.last.last_version);
        self.bytes.truncate(border.bytes);
        self.runs.truncate(border.runs);
        if let Some(last) = self.runs.last_mut() {
            *last = border.last;
        }
    }

    fn finish(self, after: i64, upto: i64) -> Frame {
        Frame { after, upto: self.cut.unwrap_or(upto), runs: self.runs, bytes: self.bytes.freeze() }
    }
}

impl Selection {
    /// What neighbouring frames have that `site` did not write itself; `None` if that is nothing.
    pub(crate) fn of(frames: &[Arc<Frame>], site: crr::SiteId) -> Option<Self> {
        let selected: Vec<Self> = frames.iter().filter_map(|frame| frame.without(site)).collect();
        Some(Self {
            count: selected.iter().map(|selection| selection.count).sum(),
            last_version: selected.last()?.last_version,
            parts: selected.into_iter().flat_map(|selection| selection.parts).collect(),
        })
    }

    /// No changes, for a client that was sent everything up to `last_version`.
    pub(crate) fn nothing(last_version: i64) -> Self {
        Self { count: 0, last_version, parts: Vec::new() }
    }

    /// How many changes there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The db_version of the last change: the position that the message takes its receiver to.
    pub(crate) fn last_version(&self) -> i64 {
        self.last_version
    }

    /// The message, for a connection that was last sent `since`, in fragments of at most `max_fragment` bytes. What fills a
    /// fragment by itself isn't copied.
    pub(crate) fn message(&self, sender: wire::SiteId, since: wire::Position, max_fragment: usize) -> Vec<Bytes> {
        let max_fragment = max_fragment.max(1);
        let length: usize = self.parts.iter().map(Bytes::len).sum();
        let mut open = BytesMut::with_capacity(length.saturating_add(64).min(max_fragment));
        wire::ChangesHead { sender, since, count: self.count }.encode_into(&mut open);
        let mut fragments = Vec::new();
        for part in &self.parts {
            let mut part = part.clone();
            while !part.is_empty() {
                if open.len() >= max_fragment {
                    fragments.push(open.split().freeze());
                }
                if open.is_empty() && part.len() >= max_fragment {
                    fragments.push(part.split_to(max_fragment));
                } else {
                    let fitting = part.len().min(max_fragment.saturating_sub(open.len()));
                    open.extend_from_slice(&part.split_to(fitting));
                }
            }
        }
        if !open.is_empty() {
            fragments.push(open.freeze());
        }
        fragments
    }

    /// The whole message as JSON text.
    pub(crate) fn json(&self, sender: wire::SiteId, since: wire::Position) -> Result<String, wire::DecodeError> {
        let changes = wire::ChangeList::from_encoded(self.count, self.bytes())?;
        Ok(wire::Message::Changes(wire::Changes { sender, since, changes }).to_json())
    }

    /// All parts in one piece.
    fn bytes(&self) -> Bytes {
        match self.parts.as_slice() {
            [only] => only.clone(),
            parts => parts.concat().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTHOR: crr::SiteId = crr::SiteId::from_bytes([1; 16]);
    const OTHER: crr::SiteId = crr::SiteId::from_bytes([2; 16]);

    fn frame(max_bytes: usize, changes: &[(i64, crr::SiteId)]) -> Frame {
        let mut builder = FrameBuilder::new(max_bytes);
        for (seq, (db_version, site)) in changes.iter().enumerate() {
            let change = crr::Change {
                table: "foo",
                pk: &[1, 9, 1],
                cid: "b",
                val: rusqlite::types::ValueRef::Integer(7),
                col_version: 1,
                db_version: *db_version,
                site_id: Some(*site),
                cl: 1,
                seq: i64::try_from(seq).unwrap(),
            };
            if builder.push(&change).is_break() {
                break;
            }
        }
        builder.finish(0, 100)
    }

    fn versions(selection: &Selection) -> Vec<i64> {
        let list = wire::ChangeList::from_encoded(selection.count, selection.bytes()).unwrap();
        list.iter().map(|change| change.db_version).collect()
    }

    #[test]
    fn a_site_is_not_sent_what_it_wrote() {
        let frame = frame(1 << 20, &[(1, AUTHOR), (1, OTHER), (2, AUTHOR), (3, OTHER), (4, AUTHOR)]);
        let selection = frame.without(AUTHOR).unwrap();
        assert_eq!(versions(&selection), [1, 3]);
        assert_eq!(selection.last_version, 3);
        assert_eq!(versions(&frame.without(crr::SiteId::from_bytes([3; 16])).unwrap()), [1, 1, 2, 3, 4]);
    }

    #[test]
    fn what_has_won_is_encoded_as_what_is_read() {
        let mut conn = Connection::open_in_memory().unwrap();
        let crr = crr::load(&conn).unwrap();
        conn.execute_batch("CREATE TABLE foo (a INTEGER PRIMARY KEY NOT NULL, b)").unwrap();
        crr.as_crr("foo").unwrap();
        conn.execute_batch("INSERT INTO foo VALUES (100, 1)").unwrap();
        let keys: Vec<[u8; 3]> = (1..=12).map(|row| [1, 9, row]).collect();
        let changes = keys.iter().zip(0..).map(|(pk, seq)| crr::Change {
            table: "foo",
            pk,
            cid: "b",
            val: rusqlite::types::ValueRef::Text(b"some text"),
            col_version: 1,
            db_version: 1,
            site_id: Some(if seq % 3 == 0 { AUTHOR } else { OTHER }),
            cl: 1,
            seq,
        });
        let tx = conn.transaction().unwrap();
        // A few rows a db_version.
        let mut merge = crr::Merge::new(&tx, crr::MergeOptions::server(200).winners(12)).unwrap();
        let upto = merge.changeset(changes).unwrap().db_version;
        let winners = merge.winners().unwrap();
        tx.commit().unwrap();
        assert!(upto > winners.after() + 2, "{upto}");
        for max_bytes in [1, 50, 100, 200, 400, 1 << 20] {
            let read = Frame::read(&conn, winners.after(), upto, None, max_bytes).unwrap();
            assert_eq!(Frame::of(&winners, winners.after(), upto, max_bytes), read);
        }
    }

    #[test]
    fn neighbouring_frames_are_sent_as_one_message() {
        let frames = [
            Arc::new(frame(1 << 20, &[(1, AUTHOR), (2, OTHER)])),
            Arc::new(frame(1 << 20, &[(3, AUTHOR)])),
            Arc::new(frame(1 << 20, &[(4, OTHER), (5, AUTHOR)])),
        ];
        let selection = Selection::of(&frames, AUTHOR).unwrap();
        assert_eq!((selection.last_version, versions(&selection)), (4, vec![2, 4]));
        assert_eq!(Selection::of(&frames[1..2], AUTHOR), None);
        assert_eq!(Selection::of(&frames[..1], AUTHOR), frames[0].without(AUTHOR));
    }

    #[test]
    fn a_large_message_is_sent_from_the_bytes_that_the_frame_holds() {
        let frame = frame(1 << 20, &[(1, AUTHOR), (1, OTHER), (1, OTHER), (1, OTHER), (2, AUTHOR), (3, OTHER)]);
        let selection = frame.without(AUTHOR).unwrap();
        let (sender, since) = (wire::SiteId::from_bytes([9; 16]), wire::Position::START);
        let [whole] = &selection.message(sender, since, 1 << 20)[..] else { panic!("it fits one fragment") };
        assert!(wire::Message::decode(whole.clone()).is_ok());
        let held = frame.bytes.as_ptr_range();
        for max_fragment in [1, 7, 40, 64, whole.len() - 1] {
            let fragments = selection.message(sender, since, max_fragment);
            assert_eq!(fragments.concat(), *whole, "{max_fragment}");
            let last = fragments.len() - 1;
            assert!(fragments[..last].iter().all(|part| part.len() <= max_fragment.max(since_and_sender())));
            if max_fragment == 7 {
                let shared = fragments.iter().filter(|part| held.contains(&part.as_ptr())).count();
                assert!(shared > fragments.len() / 2, "{shared} of {}", fragments.len());
            }
        }
    }

    /// Bytes of a message's head, which is in one fragment.
    fn since_and_sender() -> usize {
        let mut head = BytesMut::new();
        let (sender, since) = (wire::SiteId::from_bytes([9; 16]), wire::Position::START);
        wire::ChangesHead { sender, since, count: 4 }.encode_into(&mut head);
        head.len()
    }

    #[test]
    fn a_frame_of_one_site_alone_has_nothing_for_it() {
        assert_eq!(frame(1 << 20, &[(1, AUTHOR), (2, AUTHOR)]).without(AUTHOR), None);
    }

    #[test]
    fn a_full_frame_ends_at_the_border_of_a_db_version() {
        let all = frame(1 << 20, &[(1, AUTHOR), (1, AUTHOR), (2, AUTHOR), (2, OTHER), (3, AUTHOR)]);
        let nobody = crr::SiteId::from_bytes([3; 16]);
        assert_eq!((all.upto, versions(&all.without(nobody).unwrap())), (100, vec![1, 1, 2, 2, 3]));

        let room_for_three = all.byte_len() * 3 / 5;
        let cut = frame(room_for_three, &[(1, AUTHOR), (1, AUTHOR), (2, AUTHOR), (2, OTHER), (3, AUTHOR)]);
        assert_eq!((cut.after, cut.upto), (0, 1));
        assert_eq!(versions(&cut.without(nobody).unwrap()), [1, 1]);
    }

    #[test]
    fn a_db_version_that_is_larger_than_a_frame_is_not_split() {
        let frame = frame(1, &[(1, AUTHOR), (1, OTHER), (1, AUTHOR), (2, AUTHOR)]);
        assert_eq!((frame.after, frame.upto), (0, 1));
        assert_eq!(versions(&frame.without(crr::SiteId::from_bytes([3; 16])).unwrap()), [1, 1, 1]);
    }
}
