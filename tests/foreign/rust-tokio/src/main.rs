//! A server on tokio and hyper, as there are thousands; only where its socket comes from differs by target.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

static TICKS: AtomicU64 = AtomicU64::new(0);

#[cfg(target_env = "p1")]
async fn listener() -> std::io::Result<TcpListener> {
    use std::os::fd::FromRawFd;
    // The first socket that is open from the start.
    let listener = unsafe { std::net::TcpListener::from_raw_fd(3) };
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

#[cfg(not(target_env = "p1"))]
async fn listener() -> std::io::Result<TcpListener> {
    TcpListener::bind(("0.0.0.0", 8080)).await
}

async fn answer(request: Request<Incoming>, began: Instant) -> Result<Response<Full<Bytes>>, Infallible> {
    let text = match request.uri().path() {
        "/ticks" => format!("{}\n", TICKS.load(Ordering::Relaxed)),
        "/sleep" => {
            tokio::time::sleep(Duration::from_millis(500)).await;
            "slept\n".to_owned()
        }
        "/crash" => panic!("asked to crash"),
        "/exit" => std::process::exit(9),
        _ => format!("hello from tokio, {}, up {:?}\n", std::env::var("NAME").unwrap_or_default(), began.elapsed()),
    };
    Ok(Response::new(Full::new(text.into())))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let began = Instant::now();
    let listener = listener().await?;
    eprintln!("serving");
    tokio::spawn(async {
        let mut clock = tokio::time::interval(Duration::from_millis(50));
        loop {
            clock.tick().await;
            TICKS.fetch_add(1, Ordering::Relaxed);
        }
    });
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, began));
            let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            if let Err(error) = served {
                eprintln!("connection: {error}");
            }
        });
    }
}
