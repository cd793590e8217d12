//! The simulated network: gRPC calls as messages between hosts, which may be late, lost, doubled or overtaken.
//!
//! A request travels as a whole; an answer travels in pieces, each on its own way but in order, as one stream of a
//! connection does. What is lost breaks its call: after a while, as a connection that is probed in vain, or at once, as
//! one that is reset. A lost answer is a call that took effect and whose caller does not know. A request may arrive twice,
//! and may arrive so late that its sender has died, or its receiver was restarted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use granary_link::{Answer, BadAddress, CallError, Carry, Dial, Link};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service;

use crate::rng::Rng;

const MS: u64 = 1_000_000;
/// How long a connection goes unanswered before it counts as broken: a probe's interval and its patience.
const SILENCE_NS: u64 = 10_000 * MS;

/// What the network does to messages that are not cut off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    pub(crate) delay_ms_min: u64,
    pub(crate) delay_ms_max: u64,
    pub(crate) lost_per_mille: u64,
    pub(crate) doubled_per_mille: u64,
    /// Requests that arrive after seconds, when nobody waits for them any more.
    pub(crate) very_late_per_mille: u64,
}

impl Weather {
    pub(crate) const FAIR: Self =
        Self { delay_ms_min: 0, delay_ms_max: 3, lost_per_mille: 0, doubled_per_mille: 0, very_late_per_mille: 0 };
}

/// A piece of an answer.
enum Piece {
    Head(http::response::Parts),
    Frame(http_body::Frame<Bytes>),
    End,
    Broken(&'static str),
}

type ToCaller = mpsc::UnboundedSender<Piece>;

enum Delivery {
    Request { from: String, to: String, parts: http::request::Parts, body: Bytes, caller: ToCaller },
    Piece { caller: ToCaller, piece: Piece },
}

/// A host as the network knows it.
struct Place {
    handle: Handle,
    routes: Option<Routes>,
}

struct State {
    now_ns: u64,
    sequence: u64,
    queue: BTreeMap<(u64, u64), Delivery>,
    places: BTreeMap<String, Place>,
    /// From whom to whom nothing gets through.
    cuts: BTreeSet<(String, String)>,
    weather: Weather,
    rng: Rng,
    counts: Counts,
}

/// What became of messages: evidence that faults took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    pub(crate) cut: u64,
    pub(crate) doubled: u64,
    pub(crate) very_late: u64,
}

/// The network. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Net(Arc<Mutex<State>>);

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Net")
    }
}

impl Net {
    pub(crate) fn new(rng: Rng) -> Self {
        Self(Arc::new(Mutex::new(State {
            now_ns: 0,
            sequence: 0,
            queue: BTreeMap::new(),
            places: BTreeMap::new(),
            cuts: BTreeSet::new(),
            weather: Weather::FAIR,
            rng,
            counts: Counts::default(),
        })))
    }

    /// A host is up; it serves nothing yet.
    pub(crate) fn attach(&self, name: &str, handle: &Handle) {
        self.0.lock().places.insert(name.to_owned(), Place { handle: handle.clone(), routes: None });
    }

    /// A host is down: connections to it are refused.
    pub(crate) fn detach(&self, name: &str) {
        self.0.lock().places.remove(name);
    }

    /// What the host serves.
    pub(crate) fn serve(&self, name: &str, routes: Routes) {
        if let Some(place) = self.0.lock().places.get_mut(name) {
            place.routes = Some(routes);
        }
    }

    /// The way out of the host called `from`.
    pub(crate) fn dial_from(&self, from: &str) -> Arc<dyn Dial> {
        Arc::new(Door { net: self.clone(), from: from.to_owned() })
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.0.lock().weather = weather;
    }

    /// Nothing gets from `from` to `to` any more.
    pub(crate) fn cut(&self, from: &str, to: &str) {
        self.0.lock().cuts.insert((from.to_owned(), to.to_owned()));
    }

    /// Every cut is mended.
    pub(crate) fn mend(&self) {
        self.0.lock().cuts.clear();
    }

    pub(crate) fn counts(&self) -> Counts {
        self.0.lock().counts
    }

    /// Hands out what is due at `now_ns`, in order.
    pub(crate) fn deliver(&self, now_ns: u64) {
        loop {
            let mut state = self.0.lock();
            state.now_ns = now_ns;
            let Some(first) = state.queue.first_entry().filter(|first| first.key().0 <= now_ns) else { return };
            let delivery = first.remove();
            match delivery {
                Delivery::Piece { caller, piece } => drop(caller.send(piece)),
                Delivery::Request { from, to, parts, body, caller } => {
                    let answer =
                        Answering { net: self.clone(), from: to.clone(), to: from, caller, last_ns: 0, ended: false };
                    match state.places.get(&to).map(|place| (place.handle.clone(), place.routes.clone())) {
                        Some((handle, Some(routes))) => {
                            drop(state);
                            drop(handle.spawn(answer.run(routes, parts, body)));
                        }
                        _ => {
                            drop(state);
                            answer.refuse();
                        }
                    }
                }
            }
        }
    }
}

impl State {
    fn push(&mut self, at_ns: u64, delivery: Delivery) {
        self.sequence += 1;
        self.queue.insert((at_ns, self.sequence), delivery);
    }

    fn delay(&mut self) -> u64 {
        let (low, high) = (self.weather.delay_ms_min, self.weather.delay_ms_max);
        self.rng.between(low * MS, high * MS)
    }

    fn is_cut(&self, from: &str, to: &str) -> bool {
        self.cuts.contains(&(from.to_owned(), to.to_owned()))
    }

    /// Whether the message gets lost on its way.
    fn loses(&mut self, from: &str, to: &str) -> bool {
        self.counts.sent += 1;
        if self.is_cut(from, to) {
            self.counts.cut += 1;
            return true;
        }
        let lost = from != to && self.rng.per_mille(self.weather.lost_per_mille);
        self.counts.lost += u64::from(lost);
        lost
    }

    /// The caller of a message that got lost finds out late or, where the way there is open, at once.
    fn break_call(&mut self, caller: ToCaller, is_cut: bool) {
        let soon = !is_cut && self.rng.per_mille(500);
        let at_ns = self.now_ns + if soon { self.delay() } else { SILENCE_NS };
        self.push(at_ns, Delivery::Piece { caller, piece: Piece::Broken("connection broke") });
    }

    fn send_request(&mut self, from: &str, to: &str, parts: &http::request::Parts, body: &Bytes, caller: ToCaller) {
        let is_cut = self.is_cut(from, to);
        if self.loses(from, to) {
            self.break_call(caller, is_cut);
            return;
        }
        let copies = if self.rng.per_mille(self.weather.doubled_per_mille) { 2 } else { 1 };
        self.counts.doubled += copies - 1;
        for copy in 0..copies {
            let mut at_ns = self.now_ns + self.delay();
            if self.rng.per_mille(self.weather.very_late_per_mille) {
                self.counts.very_late += 1;
                at_ns += self.rng.between(1_000 * MS, 20_000 * MS);
            }
            // Nobody hears the answer to the second one.
            let caller = if copy == 0 { caller.clone() } else { mpsc::unbounded_channel().0 };
            let (from, to, parts, body) = (from.to_owned(), to.to_owned(), parts.clone(), body.clone());
            self.push(at_ns, Delivery::Request { from, to, parts, body, caller });
        }
    }
}

/// An answer on its way back.
struct Answering {
    net: Net,
    from: String,
    to: String,
    caller: ToCaller,
    /// When the last piece arrives: the next one does not overtake it.
    last_ns: u64,
    ended: bool,
}

impl Answering {
    async fn run(mut self, mut routes: Routes, parts: http::request::Parts, body: Bytes) {
        let request = http::Request::from_parts(parts, Full::new(body));
        let Ok(response) = routes.call(request).await;
        let (head, mut body) = response.into_parts();
        if !self.send(Piece::Head(head)) {
            return;
        }
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => {
                    if self.caller.is_closed() || !self.send(Piece::Frame(frame)) {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
        self.send(Piece::End);
        self.ended = true;
    }

    /// `false` when it got lost, and with it the rest of the answer.
    fn send(&mut self, piece: Piece) -> bool {
        let mut state = self.net.0.lock();
        let is_cut = state.is_cut(&self.from, &self.to);
        if state.loses(&self.from, &self.to) {
            self.ended = true;
            state.break_call(self.caller.clone(), is_cut);
            return false;
        }
        let at_ns = (state.now_ns + state.delay()).max(self.last_ns);
        self.last_ns = at_ns;
        state.push(at_ns, Delivery::Piece { caller: self.caller.clone(), piece });
        true
    }

    fn refuse(mut self) {
        self.ended = true;
        let mut state = self.net.0.lock();
        let at_ns = state.now_ns + state.delay();
        let piece = Piece::Broken("connection refused");
        state.push(at_ns, Delivery::Piece { caller: self.caller.clone(), piece });
    }
}

impl Drop for Answering {
    /// The host died under the call, or gave it up.
    fn drop(&mut self) {
        if !self.ended {
            let mut state = self.net.0.lock();
            state.break_call(self.caller.clone(), false);
        }
    }
}

#[derive(Debug)]
struct Door {
    net: Net,
    from: String,
}

impl Dial for Door {
    fn dial(&self, address: &str, _settings: &granary_link::Settings) -> Result<Link, BadAddress> {
        let to = address.strip_prefix("http://").unwrap_or(address).to_owned();
        Ok(Link::carried_by(Arc::new(Way { net: self.net.clone(), from: self.from.clone(), to })))
    }
}

/// The way from one host to another.
#[derive(Debug)]
struct Way {
    net: Net,
    from: String,
    to: String,
}

impl Carry for Way {
    fn carry(&self, request: http::Request<Body>) -> BoxFuture<'static, Answer> {
        let (net, from, to) = (self.net.clone(), self.from.clone(), self.to.clone());
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let patience = patience(&parts.headers);
            let call = async {
                let body = body.collect().await.map_err(CallError::from)?.to_bytes();
                let (caller, mut pieces) = mpsc::unbounded_channel();
                net.0.lock().send_request(&from, &to, &parts, &body, caller);
                match pieces.recv().await {
                    Some(Piece::Head(head)) => Ok(http::Response::from_parts(head, Body::new(rest(pieces)))),
                    Some(Piece::Broken(why)) => Err(broken(why)),
                    _ => Err(broken("connection reset")),
                }
            };
            match patience {
                None => call.await,
                Some(patience) => tokio::time::timeout(patience, call)
                    .await
                    .unwrap_or_else(|_| Err(Box::new(Status::cancelled("Timeout expired")))),
            }
        })
    }
}

fn broken(why: &'static str) -> CallError {
    Box::new(std::io::Error::new(std::io::ErrorKind::ConnectionReset, why))
}

/// The body of an answer whose head has come.
fn rest(pieces: mpsc::UnboundedReceiver<Piece>) -> UnsyncBoxBody<Bytes, Status> {
    let frames = futures::stream::unfold(Some(pieces), |pieces| async move {
        let mut pieces = pieces?;
        match pieces.recv().await {
            Some(Piece::Frame(frame)) => Some((Ok(frame), Some(pieces))),
            Some(Piece::End) => None,
            _ => {
                let mut status = Status::unavailable("connection broke");
                status.set_source(Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
                Some((Err(status), None))
            }
        }
    });
    UnsyncBoxBody::new(StreamBody::new(frames))
}

/// The deadline a client sent with its call, by gRPC's rules: digits and a unit.
fn patience(headers: &http::HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        _ => Duration::from_nanos(count),
    })
}
