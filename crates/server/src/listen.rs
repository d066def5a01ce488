//! The app on a socket: connections, their limits, and the end.
//!
//! The limits that a handler cannot see are here: how many connections there may be, how long a head may take,
//! how large it may be, how long a client may leave our bytes unread. Whoever closes a connection ends the work
//! that was done for it, in whatever phase it is.

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::future::Future;
use std::io;
#[cfg(unix)]
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, Sleep};
use tower::ServiceExt;

use crate::router::operations;
use crate::{App, Options, Speaker, router};

/// The largest head of a request.
const MAX_HEAD: usize = 64 << 10;

/// The most headers.
const MAX_HEADERS: usize = 128;

/// How long bytes are taken that nobody wants any more, after the last of ours.
const LINGER: Duration = Duration::from_secs(1);

/// Where connections come from.
#[derive(Debug)]
pub enum Door {
    /// The network.
    Tcp(TcpListener),
    /// Programs of this machine that may open a file.
    #[cfg(unix)]
    Unix(UnixListener),
}

impl From<TcpListener> for Door {
    fn from(listener: TcpListener) -> Door {
        Door::Tcp(listener)
    }
}

#[cfg(unix)]
impl From<UnixListener> for Door {
    fn from(listener: UnixListener) -> Door {
        Door::Unix(listener)
    }
}

/// A connection.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Door {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Door::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // A token is a packet: it shall not wait for the next one.
                let _ = stream.set_nodelay(true);
                Ok(Box::new(stream))
            }
            #[cfg(unix)]
            Door::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

/// What a server listens on, before it runs.
#[derive(Debug)]
pub enum Socket {
    /// An address and a port.
    Tcp(std::net::TcpListener),
    /// A file of this machine.
    #[cfg(unix)]
    Unix(UnixSocket),
}

impl Socket {
    /// Must be called within a runtime. Gives back what has to live as long as the door.
    fn open(self) -> io::Result<(Door, Box<dyn Send>)> {
        match self {
            Socket::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                Ok((TcpListener::from_std(listener)?.into(), Box::new(())))
            }
            #[cfg(unix)]
            Socket::Unix(UnixSocket { listener, file }) => {
                listener.set_nonblocking(true)?;
                Ok((UnixListener::from_std(listener)?.into(), Box::new(file)))
            }
        }
    }
}

/// A socket that is a file; it is removed at the end.
#[cfg(unix)]
#[derive(Debug)]
pub struct UnixSocket {
    listener: std::os::unix::net::UnixListener,
    file: SocketFile,
}

#[cfg(unix)]
#[derive(Debug)]
struct SocketFile(PathBuf);

#[cfg(unix)]
impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(unix)]
impl UnixSocket {
    /// Makes a socket that only its owner can open. One that a server has left behind is replaced.
    ///
    /// # Errors
    ///
    /// If a server listens there, something else than a socket is there, or the system refuses.
    pub fn bind(path: &Path) -> io::Result<UnixSocket> {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt};
        use std::os::unix::net::{UnixListener, UnixStream};
        if let Ok(there) = std::fs::symlink_metadata(path) {
            if !there.file_type().is_socket() {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "there is a file that is no socket",
                ));
            }
            if UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another server listens there"));
            }
        }
        // Under another name first: nobody else can open it before it is private, and then it replaces an old one.
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}", std::process::id()));
        let beside = PathBuf::from(beside);
        let listener = UnixListener::bind(&beside)?;
        let file = SocketFile(beside.clone());
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&beside, path)?;
        std::mem::forget(file);
        Ok(UnixSocket { listener, file: SocketFile(path.to_owned()) })
    }
}

/// Why a server ended before somebody ended it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError<E> {
    /// The system refused something.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The model could not be loaded.
    #[error(transparent)]
    Load(E),
}

/// Runs a server until it gets SIGTERM or Ctrl-C: probes are answered at once, requests when `load` has returned.
/// `ready` is called when they are. While it loads, `load` may say how far it is ([`App::progress`]) and on what the
/// model will be computed ([`App::computes_on`]).
///
/// At the end requests that run have `grace` to finish; a second signal ends the process at once.
///
/// - `metrics`: where `/metrics` and the probes are answered besides, without the checks of hosts
///
/// # Errors
///
/// If the model cannot be loaded, or the system refuses something.
pub fn run<E: Send + 'static>(
    listener: Socket,
    metrics: Option<std::net::TcpListener>,
    options: Options,
    grace: Duration,
    load: impl FnOnce(&App) -> Result<Arc<dyn Speaker>, E> + Send + 'static,
    ready: impl FnOnce(&dyn Speaker) + Send + 'static,
) -> Result<(), RunError<E>> {
    let app = App::loading(options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(async {
        let (listener, _file) = listener.open()?;
        if let Some(metrics) = metrics {
            metrics.set_nonblocking(true)?;
            let (metrics, app) = (TcpListener::from_std(metrics)?, app.clone());
            tokio::spawn(async move {
                // Plain HTTP, as scrapers expect it; it ends with the process, so draining can be watched.
                let options = Options { tls: None, ..app.options.clone() };
                serve(metrics, operations(app), &options, std::future::pending(), Duration::ZERO).await
            });
        }
        let (failed, mut failure) = tokio::sync::oneshot::channel();
        let loading = app.clone();
        // Not one of the runtime's own threads: those would be waited for at the end.
        std::thread::Builder::new().name("ds4-load".to_owned()).spawn(move || match load(&loading) {
            Ok(speaker) => {
                loading.ready(speaker.clone());
                ready(&*speaker);
            }
            Err(error) => drop(failed.send(error)),
        })?;
        let mut load_error = None;
        let stop = async {
            let loaded_or_never = async {
                match (&mut failure).await {
                    Ok(error) => error,
                    Err(_) => std::future::pending().await,
                }
            };
            tokio::select! {
                () = signal() => {}
                error = loaded_or_never => load_error = Some(error),
            }
            let draining = app.clone();
            let drained = tokio::task::spawn_blocking(move || draining.drain(grace));
            tokio::spawn(async {
                signal().await;
                std::process::exit(130);
            });
            drop(drained);
        };
        serve(listener, router(app.clone()), &app.options, stop, grace + Duration::from_secs(1)).await?;
        Ok(load_error)
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    match result {
        Ok(None) => Ok(()),
        Ok(Some(error)) => Err(RunError::Load(error)),
        Err(error) => Err(RunError::Io(error)),
    }
}

/// Waits until somebody wants the server to end.
async fn signal() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt => {}
            }
        } else {
            let _ = interrupt.await;
        }
    }
    #[cfg(not(unix))]
    let _ = interrupt.await;
}

/// Answers connections until `stop`, then lets those that are open finish for at most `grace`.
///
/// # Errors
///
/// Never for a single connection; only if the socket itself fails for good.
pub async fn serve(
    listener: impl Into<Door>,
    router: Router,
    options: &Options,
    stop: impl Future<Output = ()>,
    grace: Duration,
) -> io::Result<()> {
    let listener = listener.into();
    let places = Arc::new(Semaphore::new(options.max_connections));
    let (closing, closed) = watch::channel(false);
    let mut stop = std::pin::pin!(stop);
    loop {
        // A place first: those who find none wait in the system's queue, and cost us nothing.
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place.expect("never closed"),
            () = &mut stop => break,
        };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    // Out of file descriptors, or the client is gone already: the next one may have more luck.
                    eprintln!("warning: a connection could not be accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = &mut stop => break,
        };
        let connection = serve_one(stream, router.clone(), options.clone(), closed.clone());
        tokio::spawn(async move {
            connection.await;
            drop(place);
        });
    }
    drop(listener);
    let _ = closing.send(true);
    let all = u32::try_from(options.max_connections).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(grace, places.acquire_many(all)).await;
    Ok(())
}

async fn serve_one(stream: Box<dyn Stream>, router: Router, options: Options, closed: watch::Receiver<bool>) {
    let stream = Impatient::new(stream, options.write_patience);
    let Some(tls) = &options.tls else { return converse(stream, router, &options, closed).await };
    // Who greets in another language, or not at all, is left.
    let greeting = tokio::time::timeout(options.body_patience, tls.acceptor().accept(stream));
    if let Ok(Ok(stream)) = greeting.await {
        converse(stream, router, &options, closed).await;
    }
}

/// Requests and answers on one connection, until either side has enough.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    options: &Options,
    mut closed: watch::Receiver<bool>,
) {
    let io = TokioIo::new(stream);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        router.clone().oneshot(request.map(axum::body::Body::new))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(options.idle_patience)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .keep_alive(true)
        // Without it the end of a client's bytes is the end of its interest: the answer is given up.
        .half_close(options.half_close)
        .serve_connection(io, service);
    let mut connection = std::pin::pin!(connection);
    // Errors here are clients that break off or speak no HTTP; they have been told what can be told.
    let closing = async {
        let _ = closed.wait_for(|closed| *closed).await;
    };
    tokio::select! {
        _ = connection.as_mut() => {}
        () = closing => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// A connection that is given up if the other side leaves our bytes unread for too long, and that at its end takes
/// what the other side is still sending, for a moment: the system resets a socket that is closed with bytes unread,
/// and a reset destroys an answer ("too large", say) that was not read yet.
struct Impatient {
    stream: Box<dyn Stream>,
    patience: Duration,
    /// Runs while bytes wait to be taken.
    waiting: Option<Pin<Box<Sleep>>>,
    /// Runs when our side is closed.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl Impatient {
    fn new(stream: Box<dyn Stream>, patience: Duration) -> Impatient {
        Impatient { stream, patience, waiting: None, lingering: None }
    }

    /// Passes a result of writing on, and keeps the time if there is none.
    fn watch<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.waiting = None;
            return result;
        }
        let patience = self.patience;
        let clock =
            self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + patience)));
        match clock.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
            }
        }
    }
}

impl AsyncRead for Impatient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Impatient { stream, lingering, .. } = &mut *self;
        if lingering.is_none() {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
        }
        let clock = lingering.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        let mut unwanted = [0; 4096];
        while clock.as_mut().poll(cx).is_pending() {
            let mut unwanted = ReadBuf::new(&mut unwanted);
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut unwanted));
            if read.is_err() || unwanted.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    /// A client that first sends all it has still gets to read that it was too much.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_refusal_is_not_lost_with_what_was_sent_for_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(async || StatusCode::PAYLOAD_TOO_LARGE);
        tokio::spawn(async move {
            serve(listener, app, &Options::default(), std::future::pending(), Duration::ZERO).await
        });
        for round in 0..50 {
            let mut client = TcpStream::connect(address).await.unwrap();
            let head = format!("POST / HTTP/1.1\r\nhost: here\r\ncontent-length: {}\r\n\r\n", 64 << 20);
            client.write_all(head.as_bytes()).await.unwrap();
            client
                .write_all(&vec![b' '; 1 << 20])
                .await
                .unwrap_or_else(|error| panic!("round {round}: {error}"));
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert!(answer.starts_with(b"HTTP/1.1 413"), "round {round}: {}", answer.escape_ascii());
        }
    }
}
