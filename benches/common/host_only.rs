//! The networks without guests: two tasks of this process talk over podling's core, or over the kernel's loopback.
//!
//! What is left when this is taken from the guests' figures is the price of the WebAssembly boundary, which both sides pay.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use podling::net::{MemberLimits, NoLedger};
use podling::pod::net_io::NetStream;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::guests;

/// What two tasks do with one connection.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// Chunk and total, bytes; the result is MiB/s.
    Throughput(usize, u64),
    /// Message and count; the result is microseconds each.
    PingPong(usize, u32),
}

/// Over podling's network core.
///
/// # Errors
/// If the connection breaks.
pub async fn ours(work: Work) -> anyhow::Result<f64> {
    let net = guests::pod_net();
    let join = |name| net.join(name, MemberLimits::default(), Arc::new(NoLedger));
    let (server, client) = (join("server"), join("client"));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 5201));
    let mut listener = server.listen(address)?;
    let serving = tokio::spawn(async move {
        let stream = NetStream::accept(&mut listener).await?;
        // The member must outlive its connection.
        serve(stream, work).await.map(|()| drop(server))
    });
    let result = ask(NetStream::connect(&client, address).await?, work).await?;
    serving.await??;
    Ok(result)
}

/// Over the kernel's.
///
/// # Errors
/// If the connection breaks.
pub async fn kernel(work: Work) -> anyhow::Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        serve(stream, work).await
    });
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let result = ask(stream, work).await?;
    serving.await??;
    Ok(result)
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, work: Work) -> anyhow::Result<()> {
    match work {
        Work::Throughput(_, total) => {
            let mut chunk = vec![0; 1 << 20];
            let mut left = total;
            while left > 0 {
                let count = stream.read(&mut chunk).await?;
                anyhow::ensure!(count > 0, "the stream ended early");
                left = left.saturating_sub(count as u64);
            }
            stream.write_all(&[0]).await?;
        }
        Work::PingPong(size, count) => {
            let mut message = vec![0; size];
            for _ in 0..count {
                stream.read_exact(&mut message).await?;
                stream.write_all(&message).await?;
            }
        }
    }
    // The other side ends first.
    let _ = stream.read(&mut [0]).await;
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "a figure for a table")]
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, work: Work) -> anyhow::Result<f64> {
    let began = Instant::now();
    match work {
        Work::Throughput(chunk, total) => {
            let chunk = vec![0x5a; chunk];
            let mut left = total;
            while left > 0 {
                stream.write_all(&chunk).await?;
                left = left.saturating_sub(chunk.len() as u64);
            }
            stream.read_exact(&mut [0]).await?;
            Ok(total as f64 / f64::from(1 << 20) / began.elapsed().as_secs_f64())
        }
        Work::PingPong(size, count) => {
            let mut message = vec![0x5a; size];
            for _ in 0..count {
                stream.write_all(&message).await?;
                stream.read_exact(&mut message).await?;
            }
            Ok(began.elapsed().as_secs_f64() * 1e6 / f64::from(count))
        }
    }
}
