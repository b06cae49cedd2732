//! Sockets: accept, serve one connection, misbehave below HTTP.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ring::digest::{Context, SHA256};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::deliver::{Body, deliver};
use crate::faults::Fault;
use crate::log::Ticket;
use crate::reply::Reply;
use crate::routes::{Call, answer};
use crate::tap::{Conn, Sabotage, Tap};
use crate::text::hex;
use crate::world::World;

/// A listening socket that can be bound again at once.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}

/// Serves clients until the process ends; closes the socket while connects are to be refused.
pub(crate) async fn clients(
    world: Arc<World>,
    first: TcpListener,
    address: SocketAddr,
) -> io::Result<()> {
    let mut listener = first;
    let mut next = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    next += 1;
                    accept(&world, stream, next);
                }
                // out of descriptors, most likely: some will come back
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            () = world.panel.wait(|knobs| knobs.refuse) => {
                drop(listener);
                world.panel.wait(|knobs| !knobs.refuse).await;
                listener = bind(address)?;
            }
        }
    }
}

fn accept(world: &Arc<World>, stream: TcpStream, id: u64) {
    world.counters.add(|c| &c.connections, 1);
    if world.panel.now().close_at_accept {
        return;
    }
    let _ = stream.set_nodelay(true);
    tokio::spawn(connection(Arc::clone(world), stream, id));
}

async fn connection(world: Arc<World>, stream: TcpStream, id: u64) {
    let _open = world.counters.hold(|c| &c.connections_open, None);
    let mut cut = world.cut.subscribe();
    let conn = Arc::new(Conn::new(id));
    let tap = Tap::new(stream, Arc::clone(&conn), Arc::clone(&world.counters));
    let service = service_fn(|request| respond(Arc::clone(&world), Arc::clone(&conn), request));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(1 << 20)
        .auto_date_header(!world.clock.is_deterministic())
        .serve_connection(TokioIo::new(tap), service);
    tokio::select! {
        _ = serving => {}
        _ = cut.changed() => {}
    }
}

/// Closes the connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is to be closed without an answer")]
struct Hangup;

async fn respond(
    world: Arc<World>,
    conn: Arc<Conn>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Hangup> {
    let (head, body) = request.into_parts();
    let mut ticket = Ticket::new(&world.log, &world.counters, conn.id, &head);
    let reused = conn.requests.fetch_add(1, Ordering::SeqCst) > 0;
    let fault = world.faults.draw(head.method.as_str(), head.uri.path(), reused);
    if fault.is_some() {
        world.counters.add(|c| &c.faults_fired, 1);
    }
    if matches!(fault, Some(Fault::Close | Fault::CloseReused)) {
        ticket.ended("fault");
        return Err(Hangup);
    }
    let keep = !head.uri.path().starts_with("/api/blobs/");
    let body = receive(body, keep).await.map_err(|_| Hangup)?;
    ticket.body(&body);
    let clock = world.clock;
    let reply = match &fault {
        Some(Fault::Status { status, body, headers }) => {
            ticket.ended("fault");
            let plain = Reply::new(*status, crate::reply::JSON_UTF8, body.clone());
            headers.iter().fold(plain, |reply, (name, value)| reply.with(name, value))
        }
        Some(Fault::Hang) => match std::future::pending::<Infallible>().await {},
        Some(Fault::Garbage) => {
            ticket.ended("fault");
            conn.sabotage(Sabotage::Garbage);
            Reply::empty(200)
        }
        _ => answer(Arc::new(Call { world, head, body })).await,
    };
    Ok(deliver(reply, fault, ticket, conn, clock))
}

/// A request's body.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// Empty when it was only to be hashed.
    pub(crate) bytes: Bytes,
    pub(crate) length: usize,
    pub(crate) sha256: String,
}

/// Reads a body to its end; uploads are hashed and not kept.
async fn receive(mut body: Incoming, keep: bool) -> Result<Received, hyper::Error> {
    let mut hash = Context::new(&SHA256);
    let (mut kept, mut length) = (BytesMut::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        hash.update(&data);
        length += data.len();
        if keep {
            kept.extend_from_slice(&data);
        }
    }
    Ok(Received { bytes: kept.freeze(), length, sha256: hex(hash.finish().as_ref()) })
}
