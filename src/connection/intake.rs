//! What peers may make us hold before a message of theirs is complete, and has a place in its room's queue.

use std::sync::Arc;

use super::budget::Budget;

/// What a peer may send before it has announced itself. An announce lists the sites that its client knows, 32 bytes each.
const BEFORE_ANNOUNCE: usize = 1 << 20;

/// What every connection may hold without asking.
const FREE: usize = 256 << 10;

/// Why a peer may not send more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It sends more than an announce.
    Unannounced,
    /// Other connections hold what there is.
    Exhausted,
}

/// The bytes of the message that one connection is receiving.
#[derive(Debug)]
pub(super) struct Intake {
    budget: Arc<Budget>,
    announced: bool,
    /// Received since the last message was complete.
    pending: usize,
    /// Of these, taken from the budget.
    taken: usize,
    refusal: Option<Refusal>,
}

impl Intake {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { budget, announced: false, pending: 0, taken: 0, refusal: None }
    }

    /// Counts received bytes. Once they are refused, so is whatever follows.
    pub(super) fn receive(&mut self, bytes: usize) -> Result<(), Refusal> {
        if let Some(refusal) = self.refusal {
            return Err(refusal);
        }
        self.pending = self.pending.saturating_add(bytes);
        let wanted = self.pending.saturating_sub(FREE).saturating_sub(self.taken);
        let refusal = if !self.announced && self.pending > BEFORE_ANNOUNCE {
            Refusal::Unannounced
        } else if wanted > 0 && !self.budget.take(wanted) {
            Refusal::Exhausted
        } else {
            self.taken = self.taken.saturating_add(wanted);
            return Ok(());
        };
        self.refusal = Some(refusal);
        Err(refusal)
    }

    /// A message is complete, and no longer here; the first one is the announce.
    pub(super) fn complete(&mut self) {
        self.announced = true;
        self.pending = 0;
        self.budget.give_back(std::mem::take(&mut self.taken));
    }

    /// A control frame with so long a payload came: it is no part of a message, and already gone.
    pub(super) fn control_frame(&mut self, payload: usize) {
        // The header of a frame so short, with its mask (RFC 6455 §5.2).
        const HEADER: usize = 6;
        self.pending = self.pending.saturating_sub(payload.saturating_add(HEADER));
        let excess = self.taken.saturating_sub(self.pending.saturating_sub(FREE));
        self.taken = self.taken.saturating_sub(excess);
        self.budget.give_back(excess);
    }

    /// Why the connection can't receive more, if so.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.budget.give_back(self.taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_may_come_before_the_announce() {
        let mut intake = Intake::new(Budget::new(usize::MAX));
        assert_eq!(intake.receive(BEFORE_ANNOUNCE), Ok(()));
        assert_eq!(intake.receive(1), Err(Refusal::Unannounced));
        assert_eq!(intake.receive(0), Err(Refusal::Unannounced), "for good");
    }

    #[test]
    fn pings_take_nothing_for_long() {
        let budget = Budget::new(200);
        let mut intake = Intake::new(budget.clone());
        intake.complete();
        assert_eq!(intake.receive(FREE + 50), Ok(()));
        for _ in 0..1000 {
            assert_eq!(intake.receive(131), Ok(()));
            intake.control_frame(125);
        }
        assert!(budget.take(150) && !budget.take(1), "the message under way still counts");
    }

    #[test]
    fn connections_share_what_incomplete_messages_may_take() {
        let budget = Budget::new(1000);
        let mut intakes = [(); 2].map(|()| Intake::new(budget.clone()));
        for intake in &mut intakes {
            intake.complete();
            assert_eq!(intake.receive(FREE), Ok(()), "a small message is free");
        }
        let [one, two] = &mut intakes;
        assert_eq!(one.receive(600), Ok(()));
        assert_eq!(two.receive(400), Ok(()));
        one.complete();
        assert_eq!(two.receive(600), Ok(()), "what is complete is given back");
        assert_eq!(one.receive(FREE + 1), Err(Refusal::Exhausted));
        drop(intakes);
        assert!(budget.take(1000) && !budget.take(1), "and so is what a broken connection held");
    }
}
