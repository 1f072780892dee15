//! A cable that can be pulled: carries bytes from a port of its own to the broker's, as long as it is plugged in.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// After a failure to accept: no file descriptors are left, for a moment.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

pub(super) struct Cable {
    port: u16,
    plugged: watch::Sender<bool>,
}

impl Cable {
    /// Lays a cable to a port of this machine. It is plugged in, and gone when this is dropped.
    pub(super) async fn lay(to: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let (plugged, seen) = watch::channel(true);
        tokio::spawn(listen(listener, to, seen));
        Ok(Self { port, plugged })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// What is connected loses its connection; nobody else gets one.
    pub(super) fn pull(&self) {
        self.plugged.send_replace(false);
    }

    pub(super) fn plug(&self) {
        self.plugged.send_replace(true);
    }
}

async fn listen(listener: TcpListener, to: u16, mut plugged: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            changed = plugged.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        match accepted {
            Ok((from, _)) if *plugged.borrow() => {
                tokio::spawn(carry(from, to, plugged.clone()));
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(AFTER_FAILURE).await,
        }
    }
}

async fn carry(mut from: TcpStream, to: u16, mut plugged: watch::Receiver<bool>) {
    let Ok(mut to) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await else { return };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
        _ = plugged.wait_for(|plugged| !plugged) => {}
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_cable_carries_until_it_is_pulled_and_again_when_it_is_back() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let cable = Cable::lay(server.local_addr().unwrap().port()).await.unwrap();
        let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, cable.port()));
        let mut client = connect().await.unwrap();
        let (mut served, _) = server.accept().await.unwrap();
        client.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        served.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        cable.pull();
        assert_eq!(client.read(&mut heard).await.unwrap_or(0), 0, "it is over");
        let mut refused = connect().await.unwrap();
        assert_eq!(refused.read(&mut heard).await.unwrap_or(0), 0, "and nobody gets through");
        cable.plug();
        let mut again = connect().await.unwrap();
        let (mut served, _) = server.accept().await.unwrap();
        served.write_all(b"again").await.unwrap();
        again.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"again");
    }
}
