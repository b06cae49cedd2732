//! Pingora and nothing else: what any gateway built on it costs at least.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use pingora::prelude::*;
use pingora::server::configuration::ServerConf;

struct Bare(SocketAddr);

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
    }
}

/// Serves until it is told to stop, on threads that take over each other's work if they `steal`;
/// with TLS if it is given a certificate and its key.
pub fn run(
    listen: SocketAddr,
    backend: SocketAddr,
    (threads, steal): (usize, bool),
    tls: Option<(&str, &str)>,
) -> Result<()> {
    let conf = ServerConf {
        threads,
        work_stealing: steal,
        grace_period_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    let mut proxy = http_proxy_service(&Arc::clone(&server.configuration), Bare(backend));
    match tls {
        Some((cert, key)) => {
            pingora::tls::install_default_crypto_provider();
            proxy.add_tls(&listen.to_string(), cert, key)?;
        }
        None => proxy.add_tcp(&listen.to_string()),
    }
    server.add_service(proxy);
    server.run_forever()
}
