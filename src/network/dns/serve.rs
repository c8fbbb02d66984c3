//! Sockets of a name server: those of clients, and those to others who are asked.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::Names;
use super::answer::{Answer, MAX_QUERY, Transport, answer, failure, is_reply};
use super::bounds::Bounds;

/// How long each of those who are asked has.
const PATIENCE: Duration = Duration::from_secs(3);

/// How many of them are asked.
const UPSTREAMS: usize = 3;

/// How long a stream may be without a query.
const IDLE: Duration = Duration::from_secs(10);

/// Both sockets of one address.
#[derive(Debug)]
pub struct Sockets {
    udp: std::net::UdpSocket,
    tcp: std::net::TcpListener,
}

impl Sockets {
    /// Opens them. Others that listen there, too, get their part of what comes.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let open = |kind| {
            let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(family, kind, flags, None)?;
            setsockopt(&socket, sockopt::ReusePort, &true)?;
            if kind == SockType::Stream {
                setsockopt(&socket, sockopt::ReuseAddr, &true)?;
            }
            bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(address))?;
            io::Result::Ok(socket)
        };
        let (udp, tcp) = (open(SockType::Datagram)?, open(SockType::Stream)?);
        listen(&tcp, Backlog::new(64)?)?;
        Ok(Self { udp: udp.into(), tcp: tcp.into() })
    }
}

/// What all tasks of a name server have in common.
struct Server {
    names: Arc<dyn Names + Send + Sync>,
    bounds: RefCell<Bounds>,
}

/// What a client waits for.
struct Waiting {
    server: Rc<Server>,
    client: IpAddr,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.server.bounds.borrow_mut().leaves(self.client);
    }
}

impl Server {
    fn asks(&self, client: IpAddr) -> bool {
        self.bounds.borrow_mut().asks(client, Instant::now())
    }

    fn waits(self: &Rc<Self>, client: IpAddr) -> Option<Waiting> {
        let waits = self.bounds.borrow_mut().waits(client);
        waits.then(|| Waiting { server: Rc::clone(self), client })
    }
}

/// Answers at sockets, in tasks of the thread's own.
pub fn serve(sockets: Vec<Sockets>, names: Arc<dyn Names + Send + Sync>) -> io::Result<()> {
    let server = Rc::new(Server { names, bounds: RefCell::new(Bounds::new(Instant::now())) });
    for Sockets { udp, tcp } in sockets {
        let (udp, tcp) = (UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?);
        spawn_local(serve_datagrams(Rc::clone(&server), Rc::new(udp)));
        spawn_local(serve_streams(Rc::clone(&server), tcp));
    }
    Ok(())
}

async fn serve_datagrams(server: Rc<Server>, socket: Rc<UdpSocket>) {
    let mut buffer = vec![0; MAX_QUERY + 1];
    loop {
        // Errors are those of earlier replies: whoever asked is gone.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let Some(query) = buffer.get(..length).filter(|_| server.asks(client.ip())) else {
            continue;
        };
        match answer(query, &*server.names, client.ip(), Transport::Udp) {
            // Who does not take its replies does without.
            Some(Answer::Reply(reply)) => drop(socket.try_send_to(&reply, client)),
            Some(Answer::Forward { upstreams }) => {
                let Some(waiting) = server.waits(client.ip()) else { continue };
                let (query, socket) = (query.to_vec(), Rc::clone(&socket));
                spawn_local(async move {
                    if let Some(reply) = forward(&query, &upstreams, Transport::Udp).await {
                        let _ = socket.try_send_to(&reply, client);
                    }
                    drop(waiting);
                });
            }
            None => (),
        }
    }
}

async fn serve_streams(server: Rc<Server>, listener: TcpListener) {
    loop {
        let Ok((stream, client)) = listener.accept().await else {
            // There is no descriptor for it: let others end.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if let Some(waiting) = server.waits(client.ip()) {
            let server = Rc::clone(&server);
            spawn_local(async move {
                let _ = serve_stream(&server, stream, client.ip()).await;
                drop(waiting);
            });
        }
    }
}

async fn serve_stream(
    server: &Rc<Server>,
    mut stream: TcpStream,
    client: IpAddr,
) -> io::Result<()> {
    loop {
        let query = timeout(IDLE, read_message(&mut stream, MAX_QUERY)).await??;
        if !server.asks(client) {
            return Ok(());
        }
        let reply = match answer(&query, &*server.names, client, Transport::Tcp) {
            Some(Answer::Reply(reply)) => reply,
            Some(Answer::Forward { upstreams }) => {
                match forward(&query, &upstreams, Transport::Tcp).await {
                    Some(reply) => reply,
                    None => return Ok(()),
                }
            }
            None => return Ok(()),
        };
        timeout(IDLE, write_message(&mut stream, &reply)).await??;
    }
}

async fn read_message(stream: &mut TcpStream, most: usize) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}

/// The reply of the first who gives one.
async fn forward(query: &[u8], upstreams: &[SocketAddr], transport: Transport) -> Option<Vec<u8>> {
    for upstream in upstreams.iter().take(UPSTREAMS) {
        let asked = async {
            match transport {
                Transport::Udp => ask_by_datagram(query, *upstream).await,
                Transport::Tcp => ask_by_stream(query, *upstream).await,
            }
        };
        if let Ok(Ok(reply)) = timeout(PATIENCE, asked).await {
            return Some(reply);
        }
    }
    failure(query, transport)
}

/// With a number that nobody can guess, so that nobody else can reply.
fn numbered(query: &[u8]) -> io::Result<(u16, Vec<u8>)> {
    let number = getrandom::u32().map_err(io::Error::other)?.to_be_bytes();
    let id = u16::from_be_bytes([number[0], number[1]]);
    let mut query = query.to_vec();
    renumber(&mut query, id.to_be_bytes());
    Ok((id, query))
}

fn renumber(message: &mut [u8], id: [u8; 2]) {
    if let Some(number) = message.first_chunk_mut() {
        *number = id;
    }
}

/// The number that a query has.
fn number(query: &[u8]) -> [u8; 2] {
    query.first_chunk().copied().unwrap_or_default()
}

/// From a port of its own; who else writes there is not heard.
async fn ask_by_datagram(query: &[u8], upstream: SocketAddr) -> io::Result<Vec<u8>> {
    let own: SocketAddr = if upstream.is_ipv4() {
        (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(own).await?;
    socket.connect(upstream).await?;
    let (id, asked) = numbered(query)?;
    socket.send(&asked).await?;
    let mut buffer = vec![0; MAX_QUERY];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let Some(reply) = buffer.get(..length) else { continue };
        if is_reply(reply, query, id) {
            let mut reply = reply.to_vec();
            renumber(&mut reply, number(query));
            return Ok(reply);
        }
    }
}

async fn ask_by_stream(query: &[u8], upstream: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    let (id, asked) = numbered(query)?;
    write_message(&mut stream, &asked).await?;
    let mut reply = read_message(&mut stream, usize::from(u16::MAX)).await?;
    if !is_reply(&reply, query, id) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    renumber(&mut reply, number(query));
    Ok(reply)
}
