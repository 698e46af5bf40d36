//! Frames with other headers, in other pieces, and bytes that are no frames.

use tower_sqlite_sync_wire::SiteId;

use crate::exchange::Sent;
use crate::fixture::Random;
use crate::frame::{Frame, Length};
use crate::fuzz;
use crate::recording::Recording;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_frames_come_everybody_else_goes_on() {
    fuzz(session).await;
}

fn session(random: &mut Random, recording: &Recording) -> Sent {
    let site = SiteId::from_bytes(random.bytes(16).try_into().unwrap());
    let mut frames = recording.session(random, site);
    for _ in 0..random.below(4) {
        change(random, &mut frames);
    }
    let mut bytes = Vec::new();
    for frame in &frames {
        if random.one_in(20) {
            write_oddly(random, frame, &mut bytes);
        } else {
            frame.write(&mut bytes);
        }
    }
    if random.one_in(4) {
        spoil(random, &mut bytes);
    }
    // Bytes that are found twice may make two frames of one.
    Sent { bytes, changesets: 2 * frames.len(), is_framed: false }
}

/// Changes the frames, one or their order.
fn change(random: &mut Random, frames: &mut Vec<Frame>) {
    if frames.is_empty() {
        return;
    }
    let at = random.below(frames.len());
    match random.below(12) {
        0 => frames[at].first = frames[at].first & 0xf0 | random.next().to_le_bytes()[0] & 0x0f,
        1 => frames[at].first ^= Frame::FIN,
        // The first of the reserved bits would say that the frame is compressed.
        2 => frames[at].first ^= *random.pick(&[0x40, 0x20, 0x10, 0x70]),
        3 | 4 => fragment(random, frames, at),
        5 => frames.insert(at, control(random, Frame::PING)),
        6 => frames.insert(at, control(random, Frame::CLOSE)),
        7 => flip(random, &mut frames[at].payload),
        8 => {
            let len = random.below(frames[at].payload.len() + 1);
            frames[at].payload.truncate(len);
        }
        9 => frames.insert(at, frames[at].clone()),
        10 => {
            let other = random.below(frames.len());
            frames.swap(at, other);
        }
        _ => drop(frames.remove(at)),
    }
}

/// Makes several frames of one, some with a control frame between them, as is allowed.
fn fragment(random: &mut Random, frames: &mut Vec<Frame>, at: usize) {
    let whole = frames.remove(at);
    let mut pieces = Vec::new();
    let mut rest = &whole.payload[..];
    while pieces.is_empty() || !rest.is_empty() {
        let (piece, others) = rest.split_at(random.below(rest.len() + 1));
        let opcode = if pieces.is_empty() { whole.first & 0x0f } else { Frame::CONTINUATION };
        pieces.push(Frame { first: opcode, payload: piece.to_vec(), ..whole });
        rest = if pieces.len() < 20 { others } else { &[] };
        if random.one_in(5) {
            pieces.push(control(random, Frame::PING));
        }
    }
    pieces.push(Frame { first: Frame::FIN, payload: rest.to_vec(), ..whole });
    frames.splice(at..at, pieces);
}

/// A control frame, seldom one that is too long, or in parts.
fn control(random: &mut Random, opcode: u8) -> Frame {
    let len = *random.pick(&[0, 1, 2, 20, 125, 126, 300]);
    let mut frame = Frame::whole(opcode, random.bytes(len));
    if opcode == Frame::CLOSE && len >= 2 && random.one_in(2) {
        let code: u16 = *random.pick(&[0, 1000, 1001, 1005, 1006, 1015, 2999, 3000, 4999, 65535]);
        frame.payload[..2].copy_from_slice(&code.to_be_bytes());
        frame.payload[2..].fill(b'x');
    }
    if random.one_in(10) {
        frame.first ^= Frame::FIN;
    }
    frame
}

/// With a length in too many or too few bytes, one that is wrong, or without a mask.
fn write_oddly(random: &mut Random, frame: &Frame, out: &mut Vec<u8>) {
    let len = u64::try_from(frame.payload.len()).unwrap();
    let length = *random.pick(&[Length::Short, Length::Medium, Length::Long]);
    let far =
        [0, len, len + 1, len.saturating_sub(1), 2 * len, 1 << 16, 100 << 20, 1 << 31, 1 << 40, 1 << 63, u64::MAX];
    let said = *random.pick(&far);
    frame.write_as(out, !random.one_in(4), length, said);
}

/// Flips, cuts out, doubles or adds bytes, wherever they are.
fn spoil(random: &mut Random, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    let at = random.below(bytes.len());
    let end = at + random.below((bytes.len() - at).min(200));
    match random.below(5) {
        0 => flip(random, bytes),
        1 => bytes.truncate(at),
        2 => drop(bytes.drain(at..end)),
        3 => bytes.extend_from_within(at..end),
        _ => {
            let len = random.below(50);
            bytes.splice(at..at, random.bytes(len));
        }
    }
}

/// Flips a few bits.
pub(crate) fn flip(random: &mut Random, bytes: &mut [u8]) {
    if bytes.is_empty() {
        return;
    }
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        bytes[at] ^= 1 << random.below(8);
    }
}
