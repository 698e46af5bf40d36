//! Frames as they are on the wire (RFC 6455 §5.2), good ones and others.

/// A client's frame.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// FIN, three reserved bits, and the opcode.
    pub(crate) first: u8,
    pub(crate) mask: [u8; 4],
    /// Not masked.
    pub(crate) payload: Vec<u8>,
}

/// How the length of a payload is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    Short,
    Medium,
    Long,
}

impl Frame {
    pub(crate) const FIN: u8 = 0x80;
    pub(crate) const CONTINUATION: u8 = 0;
    pub(crate) const TEXT: u8 = 1;
    pub(crate) const BINARY: u8 = 2;
    pub(crate) const CLOSE: u8 = 8;
    pub(crate) const PING: u8 = 9;

    /// A whole message.
    pub(crate) fn whole(opcode: u8, payload: Vec<u8>) -> Self {
        Self { first: Self::FIN | opcode, mask: [1, 2, 3, 4], payload }
    }

    /// All the frames that there are in these bytes, of either side.
    pub(crate) fn all_in(mut bytes: &[u8]) -> Vec<Self> {
        let mut frames = Vec::new();
        while let Some((frame, rest)) = Self::first_in(bytes) {
            frames.push(frame);
            bytes = rest;
        }
        frames
    }

    fn first_in(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (&[first, second], rest) = bytes.split_first_chunk()?;
        let (len, rest) = match second & 0x7f {
            126 => rest.split_first_chunk().map(|(len, rest)| (u64::from(u16::from_be_bytes(*len)), rest))?,
            127 => rest.split_first_chunk().map(|(len, rest)| (u64::from_be_bytes(*len), rest))?,
            len => (u64::from(len), rest),
        };
        let (mask, rest) = if second & 0x80 == 0 { (&[0; 4], rest) } else { rest.split_first_chunk()? };
        let (payload, rest) = rest.split_at_checked(usize::try_from(len).unwrap())?;
        let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        Some((Self { first, mask: *mask, payload }, rest))
    }

    /// The frame's bytes.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let len = self.payload.len();
        let length = match len {
            ..126 => Length::Short,
            126..0x1_0000 => Length::Medium,
            _ => Length::Long,
        };
        self.write_as(out, true, length, len.try_into().unwrap());
    }

    /// The same with a header that need not fit.
    pub(crate) fn write_as(&self, out: &mut Vec<u8>, masked: bool, length: Length, len: u64) {
        out.push(self.first);
        let mask_bit = if masked { 0x80 } else { 0 };
        let bytes = len.to_be_bytes();
        match length {
            Length::Short => out.push(mask_bit | bytes[7] & 0x7f),
            Length::Medium => out.extend([&[mask_bit | 126], &bytes[6..]].concat()),
            Length::Long => out.extend([&[mask_bit | 127], &bytes[..]].concat()),
        }
        let mask = if masked { self.mask } else { [0; 4] };
        if masked {
            out.extend(mask);
        }
        out.extend(self.payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    }
}
