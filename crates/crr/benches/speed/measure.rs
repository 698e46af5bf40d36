//! Two contestants that take turns.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// How long two contestants took for each piece of the same work.
pub(crate) struct Duel {
    pub(crate) ours: Vec<Duration>,
    pub(crate) theirs: Vec<Duration>,
}

/// Gives each piece of work to one contestant, then to the other. Who goes first alternates: the second of a pair may find
/// the machine warmer.
pub(crate) fn in_turns<T, R>(work: &[T], mut ours: impl FnMut(&T) -> R, mut theirs: impl FnMut(&T) -> R) -> Duel {
    let mut duel = Duel { ours: Vec::new(), theirs: Vec::new() };
    for (turn, piece) in work.iter().enumerate() {
        if turn % 2 == 0 {
            duel.ours.push(time(|| ours(piece)));
            duel.theirs.push(time(|| theirs(piece)));
        } else {
            duel.theirs.push(time(|| theirs(piece)));
            duel.ours.push(time(|| ours(piece)));
        }
    }
    duel
}

/// How long something takes.
pub(crate) fn time<R>(work: impl FnOnce() -> R) -> Duration {
    let start = Instant::now();
    black_box(work());
    start.elapsed()
}

impl Duel {
    /// How much faster we are than the other.
    pub(crate) fn speedup(&self) -> f64 {
        seconds(&self.theirs) / seconds(&self.ours)
    }

    /// How our speed in the last tenth compares with that in the first, against the same of the other.
    pub(crate) fn stamina(&self) -> f64 {
        let tenth = (self.ours.len() / 10).max(1);
        let kept = |times: &[Duration]| seconds(&times[..tenth]) / seconds(&times[times.len() - tenth..]);
        kept(&self.ours) / kept(&self.theirs)
    }
}

/// The duels of several rounds.
pub(crate) struct Rounds(Vec<Duel>);

impl Rounds {
    pub(crate) fn play(rounds: usize, round: impl FnMut(usize) -> Duel) -> Rounds {
        Rounds((0..rounds).map(round).collect())
    }

    /// The median of what each duel says.
    pub(crate) fn median(&self, of: impl Fn(&Duel) -> f64) -> f64 {
        median(self.0.iter().map(of).collect())
    }

    /// Our rate, in pieces a second, of so many a round.
    pub(crate) fn our_rate(&self, pieces: usize) -> f64 {
        self.median(|duel| pieces as f64 / seconds(&duel.ours))
    }

    /// The other's.
    pub(crate) fn their_rate(&self, pieces: usize) -> f64 {
        self.median(|duel| pieces as f64 / seconds(&duel.theirs))
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2])
}

fn seconds(times: &[Duration]) -> f64 {
    times.iter().sum::<Duration>().as_secs_f64()
}
