//! What can happen on the line between a gateway and a server.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// What a [`Proxy`] does to what passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Holds each answer back for this long.
    Delay(Duration),
    /// Cuts answers short after this many bytes, and the connection with them.
    Truncate(usize),
    /// Changes a bit of every so-manieth byte of the answers.
    Flip(usize),
    /// Holds all answers back for as long as this lasts.
    Hold,
}

/// Stands between gateways and a server, and does harm.
#[derive(Clone)]
pub struct Proxy {
    address: SocketAddr,
    to: Arc<Mutex<SocketAddr>>,
    fault: Arc<Mutex<Fault>>,
    lines: Arc<Mutex<Vec<TcpStream>>>,
    /// How often those that were open then have been left in silence.
    stranded: Arc<AtomicUsize>,
}

impl Proxy {
    /// A proxy before this server, which does no harm yet.
    pub fn before(server: SocketAddr) -> Self {
        let proxy = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            to: Arc::new(Mutex::new(server)),
            fault: Arc::new(Mutex::new(Fault::None)),
            lines: Arc::default(),
            stranded: Arc::default(),
        };
        let listener = TcpListener::bind(proxy.address).expect("a free port");
        let proxy = Self { address: listener.local_addr().expect("an address"), ..proxy };
        let acting = proxy.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                acting.join(client);
            }
        });
        proxy
    }

    fn join(&self, client: TcpStream) {
        let to = *self.to.lock();
        let Ok(server) = TcpStream::connect(to) else { return };
        let clone = |stream: &TcpStream| stream.try_clone().expect("descriptors");
        self.lines.lock().extend([clone(&client), clone(&server)]);
        let born = self.stranded.load(Ordering::SeqCst);
        let (up, down) = ((clone(&client), clone(&server)), (server, client));
        let (above, below) = (self.clone(), self.clone());
        let fault = move |of: &Self, or: Fault| match of.stranded.load(Ordering::SeqCst) == born {
            true => or,
            false => Fault::Hold,
        };
        std::thread::spawn(move || pass(up.0, up.1, || fault(&above, Fault::None)));
        std::thread::spawn(move || pass(down.0, down.1, || fault(&below, *below.fault.lock())));
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a Redis behind it.
    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    /// Leads new connections to another server; those that are open stay where they are.
    pub fn lead_to(&self, server: SocketAddr) {
        *self.to.lock() = server;
    }

    /// Does this from now on.
    pub fn turn(&self, fault: Fault) {
        *self.fault.lock() = fault;
    }

    /// Leaves every connection that is open in silence, for good; new ones are as usual.
    pub fn strand(&self) {
        self.stranded.fetch_add(1, Ordering::SeqCst);
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        for line in self.lines.lock().drain(..) {
            line.shutdown(Shutdown::Both).ok();
        }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, fault: impl Fn() -> Fault) {
    let mut buffer = [0; 16 * 1024];
    let mut seen = 0_usize;
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let mut bytes = buffer[..read].to_vec();
        let mut ends = false;
        match fault() {
            Fault::None => {}
            Fault::Delay(time) => std::thread::sleep(time),
            Fault::Hold => {
                while fault() == Fault::Hold {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Fault::Truncate(length) => {
                ends = true;
                bytes.truncate(length);
            }
            Fault::Flip(each) => {
                for (place, byte) in bytes.iter_mut().enumerate() {
                    if (seen + place) % each == each - 1 {
                        *byte ^= 1 << (place % 8);
                    }
                }
            }
        }
        seen += read;
        if to.write_all(&bytes).is_err() || ends {
            break;
        }
    }
    from.shutdown(Shutdown::Both).ok();
    to.shutdown(Shutdown::Both).ok();
}
