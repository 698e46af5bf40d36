//! How two nodes show each other that they know the same secret, without saying it.
//!
//! | who | says | bytes |
//! |---|---|---|
//! | replica | magic, version, a nonce of 32 bytes | 41 |
//! | primary | magic, version, a nonce of 32 bytes | 41 |
//! | replica | HMAC-SHA256(secret, `"replica"` and both of the above) | 32 |
//! | primary | HMAC-SHA256(secret, `"primary"` and both of the above) | 32 |
//!
//! The names of the roles keep a proof from being sent back to the one who made it, and the nonces from being used a second time. The
//! one who was called proves last, so that who only tries the port is given nothing to guess the secret from.
//!
//! What follows is neither encrypted nor signed: the network between the nodes has to be private (on Fly.io it is, and encrypted).

use std::io;
use std::time::Duration;

use hmac::digest::{InvalidLength, KeyInit};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::litefs::LiteFsSecret;

const MAGIC: &[u8; 8] = b"sync-fwd";
const VERSION: u8 = 1;
const NONCE_LEN: usize = 32;
const PROOF_LEN: usize = 32;

type Nonce = [u8; NONCE_LEN];
type Proof = [u8; PROOF_LEN];

/// The two did not come to trust each other.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("the handshake took too long")]
    Timeout,
    #[error("the other end doesn't speak this protocol: is the port right?")]
    Stranger,
    #[error("the other end speaks version {0} of the protocol, not {VERSION}: bring all nodes to the same version")]
    Version(u8),
    #[error("the other end has another secret")]
    WrongSecret,
    #[error("the other end hung up on our proof: does it have the same secret?")]
    Refused,
    #[error("no random numbers: {0}")]
    NoRandom(#[from] getrandom::Error),
    #[error("the secret can't be used: {0}")]
    Key(#[from] InvalidLength),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The handshake of the one who calls, within `limit`.
pub(super) async fn call<S>(stream: &mut S, secret: &LiteFsSecret, limit: Duration) -> Result<(), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let talk = async {
        let replica = nonce()?;
        send_hello(stream, &replica).await?;
        let primary = receive_hello(stream).await?;
        let transcript = Transcript { secret, replica, primary };
        stream.write_all(&transcript.proof("replica")?).await?;
        stream.flush().await?;
        let mut proof = [0; PROOF_LEN];
        stream.read_exact(&mut proof).await.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => HandshakeError::Refused,
            _ => error.into(),
        })?;
        transcript.verify("primary", &proof)
    };
    timeout(limit, talk).await.map_err(|_| HandshakeError::Timeout)?
}

/// The handshake of the one who was called, within `limit`. It reads 73 bytes and no more.
pub(super) async fn answer<S>(stream: &mut S, secret: &LiteFsSecret, limit: Duration) -> Result<(), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let talk = async {
        let replica = receive_hello(stream).await;
        // One of another version is told ours, to be able to say what is wrong.
        if let Err(error @ HandshakeError::Version(_)) = replica {
            send_hello(stream, &nonce()?).await?;
            return Err(error);
        }
        let (replica, primary) = (replica?, nonce()?);
        send_hello(stream, &primary).await?;
        let transcript = Transcript { secret, replica, primary };
        let mut proof = [0; PROOF_LEN];
        stream.read_exact(&mut proof).await?;
        transcript.verify("replica", &proof)?;
        stream.write_all(&transcript.proof("primary")?).await?;
        Ok(stream.flush().await?)
    };
    timeout(limit, talk).await.map_err(|_| HandshakeError::Timeout)?
}

fn nonce() -> Result<Nonce, HandshakeError> {
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce)?;
    Ok(nonce)
}

async fn send_hello<S: AsyncWrite + Unpin>(stream: &mut S, nonce: &Nonce) -> io::Result<()> {
    let hello = [MAGIC.as_slice(), &[VERSION], nonce].concat();
    stream.write_all(&hello).await?;
    stream.flush().await
}

async fn receive_hello<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Nonce, HandshakeError> {
    let mut magic = [0; MAGIC.len()];
    stream.read_exact(&mut magic).await?;
    if magic != *MAGIC {
        return Err(HandshakeError::Stranger);
    }
    match stream.read_u8().await? {
        VERSION => {}
        other => return Err(HandshakeError::Version(other)),
    }
    let mut nonce = [0; NONCE_LEN];
    stream.read_exact(&mut nonce).await?;
    Ok(nonce)
}

/// What both have heard, and a proof is made over.
struct Transcript<'a> {
    secret: &'a LiteFsSecret,
    replica: Nonce,
    primary: Nonce,
}

impl Transcript<'_> {
    fn proof(&self, role: &str) -> Result<Proof, HandshakeError> {
        Ok(self.mac(role)?.finalize().into_bytes().into())
    }

    /// Compares in constant time.
    fn verify(&self, role: &str, proof: &Proof) -> Result<(), HandshakeError> {
        self.mac(role)?.verify_slice(proof).map_err(|_| HandshakeError::WrongSecret)
    }

    fn mac(&self, role: &str) -> Result<Hmac<Sha256>, HandshakeError> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.as_bytes())?;
        // All parts are of fixed length but for the role, which no other starts with.
        for part in [role.as_bytes(), MAGIC, &[VERSION], &self.replica, &self.primary] {
            mac.update(part);
        }
        Ok(mac)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn secret(text: &str) -> LiteFsSecret {
        LiteFsSecret::new(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn two_with_the_same_secret_trust_each_other() {
        let (mut near, mut far) = duplex(64);
        let secret = secret("the same for everybody");
        let (called, answered) = tokio::join!(call(&mut near, &secret, LIMIT), answer(&mut far, &secret, LIMIT));
        called.unwrap();
        answered.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn another_secret_is_refused_and_both_ends_say_so() {
        let (mut near, mut far) = duplex(64);
        let (ours, theirs) = (secret("the same for everybody"), secret("something else, wrong"));
        let answering = async {
            let answered = answer(&mut far, &theirs, LIMIT).await;
            drop(far);
            answered
        };
        let (called, answered) = tokio::join!(call(&mut near, &ours, LIMIT), answering);
        assert!(matches!(answered, Err(HandshakeError::WrongSecret)));
        assert!(matches!(called, Err(HandshakeError::Refused)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_sends_back_what_it_hears_proves_nothing() {
        let (mut near, mut far) = duplex(64);
        let echo = async {
            let (mut read, mut write) = tokio::io::split(&mut far);
            drop(tokio::io::copy(&mut read, &mut write).await);
        };
        let secret = secret("the same for everybody");
        tokio::select! {
            called = call(&mut near, &secret, LIMIT) => {
                assert!(matches!(called, Err(HandshakeError::WrongSecret)));
            }
            () = echo => panic!("the echo ended"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_is_told_nothing() {
        let (mut near, mut far) = duplex(1024);
        near.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n").await.unwrap();
        let answered = answer(&mut far, &secret("the same for everybody"), LIMIT).await;
        assert!(matches!(answered, Err(HandshakeError::Stranger)));
        drop(far);
        assert_eq!(near.read_u8().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test(start_paused = true)]
    async fn another_version_is_named_at_both_ends() {
        let (mut near, mut far) = duplex(1024);
        near.write_all(&[MAGIC.as_slice(), &[9], &[0; NONCE_LEN]].concat()).await.unwrap();
        let answered = answer(&mut far, &secret("the same for everybody"), LIMIT).await;
        assert!(matches!(answered, Err(HandshakeError::Version(9))));
        assert!(receive_hello(&mut near).await.is_ok(), "the other one learns our version");
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_not_waited_for() {
        let (mut near, mut far) = duplex(64);
        let secret = secret("the same for everybody");
        assert!(matches!(answer(&mut far, &secret, LIMIT).await, Err(HandshakeError::Timeout)));
        assert!(matches!(call(&mut near, &secret, LIMIT).await, Err(HandshakeError::Timeout)));
    }
}
