//! What the proxy engine costs by itself: a reverse proxy with no feature at all, to measure tollgate against.
//!
//! ```text
//! cargo run --release --example bare_pingora -- 127.0.0.1:9100 127.0.0.1:9101 1
//! ```
//!
//! It is the engine as its own guide shows it, made as cheap as that use allows: the peer is prepared once, no module
//! runs, no hook is written that need not be, failures are not logged. Left at the engine's defaults: the buffers of
//! client sockets, hop-by-hop headers, connection reuse on both sides, retries, work stealing. The allocator and, as
//! an example of this package, the build profile are tollgate's own.

use std::process::ExitCode;

use async_trait::async_trait;
use pingora::Result;
use pingora::modules::http::HttpModules;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server};
use pingora::upstreams::peer::HttpPeer;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Bare {
    peer: HttpPeer,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    /// None, as in tollgate: the default is a compressor that is off and still costs an allocation.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn upstream_peer(&self, _session: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(self.peer.clone()))
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, upstream, threads] = arguments.as_slice() else {
        eprintln!("usage: bare_pingora ADDRESS UPSTREAM THREADS");
        return ExitCode::from(2);
    };
    let (Ok(upstream), Ok(threads)) = (upstream.parse::<std::net::SocketAddr>(), threads.parse()) else {
        eprintln!("bare_pingora: UPSTREAM is an address and a port, THREADS a number");
        return ExitCode::from(2);
    };
    // As many upstream connections are kept as tollgate keeps: the default of 128 would do for this test too.
    let conf = ServerConf {
        threads,
        upstream_keepalive_pool_size: 1024,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let peer = HttpPeer::new(upstream, false, String::new());
    let mut service = http_proxy_service(&server.configuration, Bare { peer });
    service.add_tcp(address);
    server.add_service(service);
    server.run(RunArgs::default());
    ExitCode::SUCCESS
}
