//! Peers that a test drives byte by byte, for faults that no HTTP library produces.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::eventually;

/// A listener that gives every connection to a function, until it is dropped.
#[derive(Debug)]
pub struct RawPeer {
    /// The address that the peer listens on.
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl RawPeer {
    /// Starts a peer in clear text.
    pub async fn tcp<A, F>(act: A) -> Self
    where
        A: Fn(TcpStream) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(act(stream));
            }
        });
        Self { address, accepting }
    }

    /// Starts a peer over TLS; connections whose handshake fails are dropped.
    pub async fn tls<A, F>(config: Arc<ServerConfig>, act: A) -> Self
    where
        A: Fn(TlsStream<TcpStream>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let acceptor = TlsAcceptor::from(config);
        Self::tcp(move |stream| {
            let (acceptor, act) = (acceptor.clone(), act.clone());
            async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    act(stream).await;
                }
            }
        })
        .await
    }
}

/// A peer that records the bytes of each connection that has ended.
#[derive(Debug)]
pub struct Recorder {
    /// The listener.
    pub peer: RawPeer,
    messages: Arc<Mutex<Vec<Message>>>,
}

/// The bytes of a connection.
#[derive(Debug, Default)]
struct Message {
    bytes: Vec<u8>,
    is_ended: bool,
}

impl Recorder {
    /// Starts a peer that reads a head, writes `early`, and reads to the end.
    pub async fn start(early: &'static str) -> Self {
        let messages = Arc::new(Mutex::new(Vec::new()));
        let recorded = Arc::clone(&messages);
        let peer = RawPeer::tcp(move |mut stream| {
            let recorded = Arc::clone(&recorded);
            async move {
                let mut piece = read_head(&mut stream).await;
                let _ = stream.write_all(early.as_bytes()).await;
                let number = {
                    let mut messages = recorded.lock().unwrap();
                    messages.push(Message::default());
                    messages.len() - 1
                };
                loop {
                    recorded.lock().unwrap()[number].bytes.append(&mut piece);
                    if !matches!(stream.read_buf(&mut piece).await, Ok(1..)) {
                        break recorded.lock().unwrap()[number].is_ended = true;
                    }
                }
            }
        })
        .await;
        Self { peer, messages }
    }

    /// Waits until so many connections have ended, and returns what came over them.
    pub async fn ended(&self, connections: usize) -> Vec<String> {
        let ended = || {
            let messages = self.messages.lock().unwrap();
            let ended = messages.iter().filter(|message| message.is_ended);
            ended.map(|message| String::from_utf8_lossy(&message.bytes).into_owned()).collect::<Vec<_>>()
        };
        eventually("the end of the recorder's connections", async || ended().len() >= connections).await;
        ended()
    }

    /// Waits until so many connections have carried this text.
    pub async fn received(&self, text: &str, connections: usize) {
        let count = || {
            let messages = self.messages.lock().unwrap();
            messages.iter().filter(|message| String::from_utf8_lossy(&message.bytes).contains(text)).count()
        };
        eventually("the text at the recorder", async || count() >= connections).await;
    }
}

impl Drop for RawPeer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Reads a request's head, and returns the head and the bytes that came with it.
pub async fn read_head<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            break;
        }
    }
    head
}

/// Lets the end of the stream reset the connection.
pub fn reset(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
}

/// An address where connecting neither succeeds nor is refused: the listener's backlog is full.
#[derive(Debug)]
pub struct BlackHole {
    /// The address.
    pub address: SocketAddr,
    _listener: socket2::Socket,
    _waiting: Vec<socket2::Socket>,
}

impl BlackHole {
    /// Listens on a free port and fills the backlog.
    pub fn start() -> Self {
        use socket2::{Domain, Socket, Type};
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let waiting = std::iter::repeat_with(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let connected = socket.connect_timeout(&address, std::time::Duration::from_millis(200));
            (socket, connected.is_ok())
        });
        // The backlog is full when a connection attempt times out.
        let waiting =
            waiting.take_while(|(_, is_connected)| *is_connected).map(|(socket, _)| socket).collect();
        Self { address: address.as_socket().unwrap(), _listener: listener, _waiting: waiting }
    }
}
