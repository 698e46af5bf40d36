//! Long work on a thread of its own, beside the short work of other rooms.
//!
//! With more threads than processors, the system lets one compute for milliseconds before it looks who else wants to, and each
//! message passes through several threads. A large import would add that to each step of everybody else's small writes. So work on
//! many changes offers the processor to others now and then, which costs next to nothing if nobody wants it.

/// Changes that are worked on before others may have the processor: some hundred microseconds.
const CHANGES: usize = 64;

/// Called with the number of each change, it lets other threads go first once in a while.
pub(super) fn after_change(number: usize) {
    if number % CHANGES == CHANGES - 1 {
        std::thread::yield_now();
    }
}
