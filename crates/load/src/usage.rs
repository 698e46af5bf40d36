//! What a process uses, as Linux tells it. Elsewhere there are no such figures.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How often memory is looked at where its peak can't be reset.
const SAMPLES: Duration = Duration::from_millis(5);

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    pub(crate) fn of(pid: u32) -> Self {
        Self(pid)
    }

    /// This one.
    pub(crate) fn this() -> Self {
        Self(std::process::id())
    }

    /// Bytes in memory now.
    pub(crate) fn memory(self) -> Option<u64> {
        self.status("VmRSS")
    }

    /// Time on processors so far.
    pub(crate) fn cpu(self) -> Option<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).ok()?;
        let ticks = cpu_ticks(&stat)?;
        Some(Duration::from_secs(1).checked_div(ticks_per_second())?.saturating_mul(u32::try_from(ticks).ok()?))
    }

    fn status(self, field: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?;
        bytes_of(&status, field)
    }
}

/// Watches a process for the most memory that it uses.
#[derive(Debug)]
pub(crate) enum Peak {
    /// The kernel does.
    Kernel(Process),
    /// A thread of ours looks again and again.
    Samples { most: Arc<AtomicU64>, over: Arc<AtomicBool> },
}

impl Peak {
    /// From now on.
    pub(crate) fn watch(process: Process) -> Self {
        // 5 resets VmHWM (proc(5)).
        if fs::write(format!("/proc/{}/clear_refs", process.0), "5").is_ok() {
            return Self::Kernel(process);
        }
        let (most, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (samples, ended) = (most.clone(), over.clone());
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                samples.fetch_max(process.memory().unwrap_or_default(), Ordering::Relaxed);
                std::thread::sleep(SAMPLES);
            }
        });
        Self::Samples { most, over }
    }

    /// The most bytes until now.
    pub(crate) fn most(&self) -> Option<u64> {
        match self {
            Self::Kernel(process) => process.status("VmHWM"),
            Self::Samples { most, .. } => Some(most.load(Ordering::Relaxed)).filter(|most| *most > 0),
        }
    }
}

impl Drop for Peak {
    fn drop(&mut self) {
        if let Self::Samples { over, .. } = self {
            over.store(true, Ordering::Relaxed);
        }
    }
}

fn bytes_of(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// utime and stime, the fields 14 and 15. The second field may hold anything, spaces and parentheses too.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11).map(str::parse::<u64>);
    fields.next()?.ok()?.checked_add(fields.next()?.ok()?)
}

fn ticks_per_second() -> u32 {
    #[cfg(unix)]
    let ticks = rustix::param::clock_ticks_per_second();
    #[cfg(not(unix))]
    let ticks = 100_u64;
    u32::try_from(ticks).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_words_are_read() {
        assert_eq!(bytes_of("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 12 kB\n", "VmRSS"), Some(12 << 10));
        assert_eq!(bytes_of("Name:\tx\n", "VmRSS"), None);
        let stat = "4711 (a ) name) S 1 4711 4711 0 -1 4194560 1234 0 0 0 17 25 0 0 20 0 1 0";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(cpu_ticks("4711 (cut"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_uses_memory() {
        let peak = Peak::watch(Process::this());
        let (most, now) = (peak.most().unwrap(), Process::this().memory().unwrap());
        assert!(most > 1 << 20 && now > 1 << 20, "{most} {now}");
        assert!(Process::this().cpu().is_some());
    }
}
