//! How a connection ends: a code of RFC 6455 §7.4 or our own, and a reason within the 123 bytes that a close frame has.

use std::fmt;

use crate::primary::Refusal;

/// The longest reason that fits a close frame (RFC 6455 §5.5), in bytes.
const MAX_REASON: usize = 123;

/// A close code with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Close {
    code: u16,
    reason: String,
}

impl Close {
    /// The code for what is not allowed.
    pub(crate) const POLICY: u16 = 1008;

    /// The code for what is too large.
    pub(crate) const TOO_BIG: u16 = 1009;

    /// 1001: the server stops, or the room does.
    pub(crate) fn going_away() -> Self {
        Self::new(1001, "the server is going away: connect again")
    }

    /// 1002: a message that doesn't belong to this state, or broken framing.
    pub(crate) fn protocol(reason: &str) -> Self {
        Self::new(1002, reason)
    }

    /// 1001: the room becomes another site.
    pub(crate) fn forked() -> Self {
        Self::new(1001, "the room's database was replaced: connect again")
    }

    /// 1003: a frame of the other kind than the announce's.
    pub(crate) fn unsupported(reason: &str) -> Self {
        Self::new(1003, reason)
    }

    /// 1007: a frame that doesn't decode.
    pub(crate) fn malformed(reason: &str) -> Self {
        Self::new(1007, reason)
    }

    /// 1008: not allowed.
    pub(crate) fn policy(reason: &str) -> Self {
        Self::new(Self::POLICY, reason)
    }

    /// 1008: the site is another identity's.
    pub(crate) fn site_taken() -> Self {
        Self::policy("this site id is another user's here: log in as that user, or begin with a new database")
    }

    /// 1008: the grant has ended.
    pub(crate) fn expired() -> Self {
        Self::policy("what this connection was let in with has expired: connect again with a new token")
    }

    /// 1009: over a limit.
    pub(crate) fn too_big(reason: &str) -> Self {
        Self::new(Self::TOO_BIG, reason)
    }

    /// 1011: our fault.
    pub(crate) fn internal(reason: &str) -> Self {
        Self::new(1011, reason)
    }

    /// 1011: the room's file is no sound database.
    pub(crate) fn damaged() -> Self {
        Self::internal("the room's database is damaged; the server's log says what to do")
    }

    /// 1013: a limit that passes by itself.
    pub(crate) fn try_again(reason: &str) -> Self {
        Self::new(1013, reason)
    }

    /// 1013: another process holds the room's database.
    pub(crate) fn locked() -> Self {
        Self::try_again("another process has the room's database locked: try again later")
    }

    /// 1013: the file system takes no writes, as LiteFS on a node that isn't the primary.
    pub(crate) fn unwritable() -> Self {
        Self::try_again("the room's database can't be written now: try again later")
    }

    /// 1009: more than an announce, from whom has not announced itself.
    pub(crate) fn too_big_before_announce() -> Self {
        Self::too_big("an announce may have 1 MiB")
    }

    /// 4400: client and room don't have the same schema.
    pub(crate) fn schema(reason: &str) -> Self {
        Self::new(4400, reason)
    }

    /// What the application says. A code that no close frame may carry (RFC 6455 §7.4) becomes 1008.
    pub(crate) fn disconnect(code: u16, reason: &str) -> Self {
        let may_be_sent = matches!(code, 1000..=1003 | 1007..=1009 | 1011..=1014 | 3000..=4999);
        Self::new(if may_be_sent { code } else { Self::POLICY }, reason)
    }

    /// What the room's primary says.
    pub(crate) fn as_the_primary(refusal: &Refusal) -> Self {
        Self::new(refusal.code, &refusal.reason)
    }

    /// The same, for a primary to say.
    pub(crate) fn to_refusal(&self) -> Refusal {
        Refusal { code: self.code, reason: self.reason.clone() }
    }

    fn new(code: u16, reason: &str) -> Self {
        let end = reason.floor_char_boundary(MAX_REASON);
        Self { code, reason: reason.get(..end).unwrap_or_default().to_owned() }
    }

    /// Whether the peer is at fault, and would be again.
    pub(crate) fn blames_the_peer(&self) -> bool {
        matches!(self.code, 1002..=1009 | 4400)
    }

    /// The code.
    pub(crate) fn code(&self) -> u16 {
        self.code
    }

    /// The reason; at most 123 bytes.
    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let close = Close::policy(&"é".repeat(100));
        assert_eq!(close.reason().len(), 122);
        assert_eq!(close.reason(), "é".repeat(61));
    }

    #[test]
    fn a_code_that_may_not_be_sent_becomes_another() {
        let sent = |code| Close::disconnect(code, "bye").code();
        assert_eq!([1000, 1008, 3000, 4999].map(sent), [1000, 1008, 3000, 4999]);
        assert_eq!([0, 999, 1004, 1005, 1006, 1015, 2999, 5000, u16::MAX].map(sent), [1008; 9]);
    }

    #[test]
    fn a_short_reason_stays() {
        assert_eq!(Close::protocol("no").to_string(), "1002 no");
    }
}
