//! The network between two nodes: a forwarder that can hold what is under way, or lose it.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Bytes stay where they are.
    Held,
    /// Connections break, and what was held is lost. None can be made.
    Cut,
}

/// The way from one node to another. Its address stays, wherever the other node's server listens.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) address: SocketAddr,
    target: watch::Sender<Option<SocketAddr>>,
    state: watch::Sender<State>,
    _accepting: AbortOnDropHandle<()>,
}

impl Link {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (target, to) = watch::channel(None);
        let (state, states) = watch::channel(State::Open);
        let accepting = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let (to, states) = (*to.borrow(), states.clone());
                if let Some(to) = to.filter(|_| *states.borrow() != State::Cut) {
                    tokio::spawn(connect(near, to, states));
                }
            }
        });
        Self { address, target, state, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// Says where the other node's server listens now.
    pub(crate) fn lead_to(&self, address: SocketAddr) {
        self.target.send_replace(Some(address));
    }

    /// Holds what is under way, in both directions.
    pub(crate) fn hold(&self) {
        self.state.send_replace(State::Held);
    }

    /// Loses what is under way, and lets no connection be made.
    pub(crate) fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Lets everything through.
    pub(crate) fn mend(&self) {
        self.state.send_replace(State::Open);
    }
}

async fn connect(near: TcpStream, to: SocketAddr, mut states: watch::Receiver<State>) {
    let Ok(far) = TcpStream::connect(to).await else { return };
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    let (there, back) = (states.clone(), states.clone());
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::select! {
        () = pass(near_in, far_out, there) => {}
        () = pass(far_in, near_out, back) => {}
        _ = states.wait_for(|state| *state == State::Cut) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut states: watch::Receiver<State>) {
    let mut bytes = vec![0; 16 << 10];
    loop {
        let Ok(count @ 1..) = from.read(&mut bytes).await else { return };
        if states.wait_for(|state| *state == State::Open).await.is_err() || to.write_all(&bytes[..count]).await.is_err()
        {
            return;
        }
    }
}
