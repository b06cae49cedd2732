//! Pingora and nothing else: what any gateway built on it costs at least.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use pingora::modules::http::HttpModules;
use pingora::modules::http::compression::ResponseCompressionBuilder;
use pingora::prelude::*;
use pingora::server::configuration::ServerConf;

/// How it is set up: as Pingora comes, or with one thing changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// Threads take over each other's work, and a module could compress answers.
    Usual,
    /// Threads keep to their own work.
    Sticky,
    /// No module looks at answers.
    Lean,
}

impl Setup {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Usual, "usual"), (Self::Sticky, "sticky"), (Self::Lean, "lean")];

    /// Its name on a command line.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(setup, _)| *setup == self).map_or("", |(_, word)| word)
    }

    /// What has this name.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, name)| *name == word).map(|(setup, _)| *setup)
    }
}

struct Bare {
    backend: SocketAddr,
    setup: Setup,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    fn init_downstream_modules(&self, modules: &mut HttpModules) {
        if self.setup != Setup::Lean {
            // as Pingora does where nothing else is said
            modules.add_module(ResponseCompressionBuilder::enable(0));
        }
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.backend, false, String::new())))
    }
}

/// Serves until it is told to stop; with TLS if it is given a certificate and its key.
pub fn run(
    listen: SocketAddr,
    backend: SocketAddr,
    threads: usize,
    setup: Setup,
    tls: Option<(&str, &str)>,
) -> Result<()> {
    let conf = ServerConf {
        threads,
        work_stealing: setup != Setup::Sticky,
        grace_period_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    let mut proxy = http_proxy_service(&Arc::clone(&server.configuration), Bare { backend, setup });
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
