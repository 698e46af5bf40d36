//! Where connections come from, as far as the application can say.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::request::Parts;
use tokio::time::Instant;

use crate::rate::{Bucket, Rate};

/// The application's word for where a request comes from. Without one, nobody knows.
#[derive(Clone, Default)]
pub(crate) struct AddressHook(Option<Arc<FindAddress>>);

type FindAddress = dyn Fn(&Parts) -> Option<IpAddr> + Send + Sync;

impl AddressHook {
    pub(crate) fn new(hook: impl Fn(&Parts) -> Option<IpAddr> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    /// Where a request comes from. A hook that panics doesn't know.
    pub(crate) fn network(&self, head: &Parts) -> Option<Network> {
        let hook = self.0.as_ref()?;
        let address = catch_unwind(AssertUnwindSafe(|| hook(head)));
        address
            .unwrap_or_else(|_| {
                tracing::error!("the hook for remote addresses panicked");
                None
            })
            .map(Network::of)
    }
}

impl fmt::Debug for AddressHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AddressHook").field(&self.0.is_some()).finish()
    }
}

/// What one customer of a network has: an IPv4 address, or 64 bits of IPv6, within which it can have as many addresses as it likes
/// (RFC 6177).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Network {
    V4(Ipv4Addr),
    V6([u16; 4]),
}

impl Network {
    pub(crate) fn of(address: IpAddr) -> Self {
        // A socket for both families shows IPv4 peers as `::ffff:a.b.c.d`.
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

/// A burst of refusals, in seconds of the allowed rate: everybody behind one address may be refused at once after an update.
const BURST: u32 = 10;

/// Networks whose refusals are remembered. Whoever has more of them only shortens their own waiting.
const MAX_NETWORKS: usize = 10_000;

/// Networks whose connections end refused, again and again. Clients come back every few seconds for ever, whatever they are told;
/// the answer should cost little.
#[derive(Debug)]
pub(crate) struct Unwelcome {
    rate: Rate,
    networks: Mutex<HashMap<Network, Bucket>>,
}

impl Unwelcome {
    /// Bears with so many refusals a second.
    pub(crate) fn new(per_second: u32) -> Self {
        Self { rate: Rate::new(per_second, BURST), networks: Mutex::default() }
    }

    /// How long nothing of the network is looked at, if so.
    pub(crate) fn wait(&self, network: Network) -> Option<Duration> {
        let bucket = self.locked().get(&network).copied()?;
        Some(bucket.wait(self.rate, Instant::now())).filter(|wait| !wait.is_zero())
    }

    /// A connection of the network was refused.
    pub(crate) fn refused(&self, network: Network) {
        let now = Instant::now();
        let mut networks = self.locked();
        if networks.len() >= MAX_NETWORKS && !networks.contains_key(&network) {
            networks.retain(|_, bucket| !bucket.is_even(now));
            if networks.len() >= MAX_NETWORKS {
                networks.clear();
            }
        }
        let bucket = networks.entry(network).or_insert_with(|| Bucket::new(now));
        // Connections that were let in before may still be refused; they don't make it worse.
        if bucket.wait(self.rate, now).is_zero() {
            bucket.count(self.rate, now);
        }
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<Network, Bucket>> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(address: &str) -> Network {
        Network::of(address.parse().unwrap())
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_and_a_mapped_address_is_ipv4() {
        assert_eq!(network("2001:db8:0:1::1"), network("2001:db8:0:1:ffff::2"));
        assert_ne!(network("2001:db8:0:1::1"), network("2001:db8:0:2::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }

    #[test]
    fn a_hook_that_panics_does_not_know() {
        let (head, ()) = http::Request::new(()).into_parts();
        assert_eq!(AddressHook::new(|_| panic!("no")).network(&head), None);
        assert_eq!(AddressHook::default().network(&head), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_is_answered_again_once_its_refusals_are_even() {
        let unwelcome = Unwelcome::new(2);
        let (bad, good) = (network("192.0.2.1"), network("192.0.2.2"));
        for _ in 0..20 {
            assert_eq!(unwelcome.wait(bad), None);
            unwelcome.refused(bad);
        }
        assert_eq!(unwelcome.wait(bad), Some(Duration::from_millis(500)));
        for _ in 0..100 {
            unwelcome.refused(bad);
        }
        assert_eq!(unwelcome.wait(bad), Some(Duration::from_millis(500)), "it gets no worse");
        assert_eq!(unwelcome.wait(good), None);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(unwelcome.wait(bad), None);
    }

    #[tokio::test(start_paused = true)]
    async fn many_networks_take_no_more_memory_than_the_bound() {
        let unwelcome = Unwelcome::new(1);
        for i in 0..u32::try_from(MAX_NETWORKS).unwrap() + 5 {
            unwelcome.refused(Network::V4(i.into()));
        }
        assert!(unwelcome.locked().len() <= MAX_NETWORKS);
    }
}
