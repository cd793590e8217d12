//! The one way from a process to another: links that carry gRPC calls to an address.
//!
//! A [`Link`] is what generated clients are made over. Whoever needs one asks a [`Links`] pool, which keeps one link for
//! each address and has it made by a [`Dial`]: [`Tcp`] in a process, the simulated network in a simulation. A link
//! never fails to be made for want of a peer: it connects when it is first used, and again when it broke.
//!
//! Not here: what is said over a link, how often it is tried again, which node is asked.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, Either, MapErr, TryFutureExt};
use parking_lot::Mutex;
use tonic::body::Body;
use tonic::transport::{self, Channel, Endpoint};
use tower::Service;

/// More addresses than any cluster has at a time; when so many were seen, a pool begins anew.
const LINKS_MAX: usize = 1_024;
/// A request with megabytes of entries should not wait for window updates; a snapshot should.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// What a call over a link can fail with: the source of the client's status, which tells a broken link from an answer.
pub type CallError = Box<dyn std::error::Error + Send + Sync>;

/// A call's answer, or why there is none.
pub type Answer = Result<http::Response<Body>, CallError>;

/// How a link is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long a connection may take to open.
    pub connect_timeout: Duration,
    /// How often an open connection is probed.
    pub keep_alive: Duration,
    /// How long a probe may go unanswered before the connection counts as broken.
    pub keep_alive_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            // Short: whoever asks tries again, and others wait meanwhile.
            connect_timeout: Duration::from_secs(1),
            keep_alive: Duration::from_secs(5),
            keep_alive_timeout: Duration::from_secs(5),
        }
    }
}

/// An address that cannot be one.
#[derive(Debug, thiserror::Error)]
#[error("address cannot be used: address={address:?} {reason}")]
pub struct BadAddress {
    /// The address.
    pub address: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Makes links.
pub trait Dial: Send + Sync + fmt::Debug {
    /// A link to `address`, `host:port` or with a scheme before it. Opens nothing yet; must be called on a runtime.
    ///
    /// # Errors
    /// When the address cannot be one.
    fn dial(&self, address: &str, settings: &Settings) -> Result<Link, BadAddress>;
}

/// Links over TCP and HTTP/2.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

impl Dial for Tcp {
    fn dial(&self, address: &str, settings: &Settings) -> Result<Link, BadAddress> {
        let uri = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let endpoint = Endpoint::from_shared(uri)
            .map_err(|error| BadAddress { address: address.to_owned(), reason: error.to_string() })?;
        let channel = endpoint
            .connect_timeout(settings.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(settings.keep_alive)
            .keep_alive_timeout(settings.keep_alive_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .connect_lazy();
        Ok(Link(Carrier::Tcp(channel)))
    }
}

/// Carries calls some other way than over TCP.
pub trait Carry: Send + Sync + fmt::Debug {
    /// Carries one call there and its answer back.
    fn carry(&self, request: http::Request<Body>) -> BoxFuture<'static, Answer>;
}

/// A link to one address. Cheap to clone; clones share the connection.
#[derive(Debug, Clone)]
pub struct Link(Carrier);

#[derive(Debug, Clone)]
enum Carrier {
    Tcp(Channel),
    Other(Arc<dyn Carry>),
}

impl Link {
    /// A link whose calls `carrier` carries.
    pub fn carried_by(carrier: Arc<dyn Carry>) -> Self {
        Self(Carrier::Other(carrier))
    }
}

impl Service<http::Request<Body>> for Link {
    type Response = http::Response<Body>;
    type Error = CallError;
    type Future = Call;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        match &mut self.0 {
            Carrier::Tcp(channel) => channel.poll_ready(context).map_err(CallError::from),
            Carrier::Other(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: http::Request<Body>) -> Call {
        Call(match &mut self.0 {
            Carrier::Tcp(channel) => Either::Left(channel.call(request).map_err(boxed as _)),
            Carrier::Other(carrier) => Either::Right(carrier.carry(request)),
        })
    }
}

fn boxed(error: transport::Error) -> CallError {
    error.into()
}

type OverTcp = MapErr<transport::channel::ResponseFuture, fn(transport::Error) -> CallError>;

/// A call under way.
pub struct Call(Either<OverTcp, BoxFuture<'static, Answer>>);

impl Future for Call {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Call")
    }
}

/// One link for each address, shared by all that this process says to it.
#[derive(Debug)]
pub struct Links {
    dial: Arc<dyn Dial>,
    settings: Settings,
    links: Mutex<HashMap<String, Link>>,
}

impl Links {
    /// A pool without links, which `dial` makes.
    pub fn new(dial: Arc<dyn Dial>, settings: Settings) -> Self {
        Self { dial, settings, links: Mutex::default() }
    }

    /// The link to `address`.
    ///
    /// # Errors
    /// When the address cannot be one.
    pub fn to(&self, address: &str) -> Result<Link, BadAddress> {
        let mut links = self.links.lock();
        if let Some(link) = links.get(address) {
            return Ok(link.clone());
        }
        if links.len() >= LINKS_MAX {
            links.clear();
        }
        let link = self.dial.dial(address, &self.settings)?;
        links.insert(address.to_owned(), link.clone());
        Ok(link)
    }

    /// Forgets the link to a node that is gone for good.
    pub fn forget(&self, address: &str) {
        self.links.lock().remove(address);
    }
}
