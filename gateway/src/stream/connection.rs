//! One connection to a controller.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::SendStream;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Method, Request, StatusCode};
use sluicegate_process::frames::{self, Frames, WINDOW};
use sluicegate_snapshot::Delta;
use sluicegate_snapshot::model::Version;
use sluicegate_snapshot::wire::{
    Ack, Ahead, Frame, HEARTBEAT_SECONDS, Heartbeat, Hello, Origin, PATH, Received, Receiver, Resync, SILENCE_SECONDS,
    WIRE, Welcome,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{interval, sleep, timeout};

use super::guard::{Guard, HOLD_LIMIT, Judgement};
use super::{ControllerUrl, Credentials, tls};
use crate::apply::Applier;
use crate::manifests::watch::Signal;
use crate::shared::Shared;
use crate::tls::DefaultCertificateFiles;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);

const SILENCE: Duration = Duration::from_secs(SILENCE_SECONDS);

/// How a connection ended.
pub(super) enum Ended {
    /// The gateway ends.
    Stopped,
    /// Another controller has to be found.
    Lost {
        /// For people.
        why: String,
        /// It was connected and said something.
        was_useful: bool,
    },
}

/// What outlives a connection.
pub(super) struct Session {
    applier: Applier,
    shared: Arc<Shared>,
    signals: UnboundedReceiver<Signal>,
    credentials: Credentials,
    default_certificate: Option<DefaultCertificateFiles>,
    guard: Guard,
    /// What is in force is what the controller of this connection sent or has, and it was told so.
    has_acknowledged: bool,
    /// The controller of this connection.
    instance: Option<Arc<str>>,
    /// The one that has published what is in force.
    have_from: Option<Arc<str>>,
}

/// What wakes the session.
enum Event {
    Frame(Result<Option<Frame>, frames::StreamError>),
    Silence,
    Tick,
    Signal(Option<Signal>),
}

impl Session {
    pub(super) fn new(
        applier: Applier,
        shared: Arc<Shared>,
        signals: UnboundedReceiver<Signal>,
        credentials: Credentials,
        default_certificate: Option<DefaultCertificateFiles>,
    ) -> Self {
        Session {
            applier,
            shared,
            signals,
            credentials,
            default_certificate,
            guard: Guard::default(),
            has_acknowledged: false,
            instance: None,
            have_from: None,
        }
    }

    /// Nobody is connected.
    pub(super) fn lost(&mut self) {
        self.shared.state.controller.disconnected();
        self.guard.disconnected();
        self.shared.state.controller.holds(false);
    }

    /// Waits; true: the gateway ends.
    pub(super) async fn pause(&mut self, time: Duration) -> bool {
        let wait = sleep(time);
        tokio::pin!(wait);
        loop {
            tokio::select! {
                () = &mut wait => {
                    self.tick();
                    return false;
                }
                signal = self.signals.recv() => if self.obey(signal) { return true },
            }
        }
    }

    /// Follows one controller for as long as that goes well.
    pub(super) async fn follow(&mut self, controller: &ControllerUrl) -> Ended {
        let opened = tokio::select! {
            opened = open(controller, &self.credentials) => opened,
            () = stopped(&mut self.signals) => return Ended::Stopped,
        };
        let mut was_useful = false;
        let result = match opened {
            Ok((mut sender, mut frames, _connection)) => {
                self.talk(controller, &mut sender, &mut frames, &mut was_useful).await
            }
            Err(why) => Err(why),
        };
        match result {
            Ok(()) => Ended::Stopped,
            Err(why) => Ended::Lost { why, was_useful },
        }
    }

    /// `Ok`: the gateway ends.
    async fn talk(
        &mut self,
        controller: &ControllerUrl,
        sender: &mut SendStream<Bytes>,
        frames: &mut Frames,
        was_useful: &mut bool,
    ) -> Result<(), String> {
        let mut receiver = Receiver::default();
        self.has_acknowledged = false;
        self.instance = None;
        send(sender, Frame::Hello(self.hello())).await?;
        let mut ticks = interval(Duration::from_secs(HEARTBEAT_SECONDS));
        let mut heard = Instant::now();
        loop {
            let event = tokio::select! {
                frame = frames.next() => Event::Frame(frame),
                () = sleep(SILENCE.saturating_sub(heard.elapsed())) => Event::Silence,
                _ = ticks.tick() => Event::Tick,
                signal = self.signals.recv() => Event::Signal(signal),
            };
            match event {
                Event::Frame(Ok(Some(Frame::Welcome(welcome)))) => {
                    self.welcome(controller, &welcome)?;
                    (*was_useful, heard) = (true, Instant::now());
                }
                Event::Frame(Ok(Some(frame))) => {
                    heard = Instant::now();
                    let received = receiver.take(frame, self.guard.base(self.applier.snapshot()));
                    self.take(received, sender).await?;
                }
                Event::Frame(Ok(None)) => return Err("it ended the stream".to_owned()),
                Event::Frame(Err(error)) => return Err(error.to_string()),
                Event::Silence => return Err(format!("nothing was heard for {SILENCE_SECONDS} s")),
                Event::Tick => {
                    self.tick();
                    self.release(sender).await?;
                    send(sender, Frame::Heartbeat(Heartbeat::default())).await?;
                }
                Event::Signal(signal) => {
                    if self.obey(signal) {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn hello(&self) -> Hello {
        let has_table = self.shared.state.has_table();
        Hello {
            wire: WIRE,
            gateway: rustix::system::uname().nodename().to_string_lossy().into(),
            program: env!("CARGO_PKG_VERSION").into(),
            have: has_table.then(|| self.applier.snapshot().version.clone()),
            have_from: self.have_from.clone(),
            lacks_keys: self.applier.awaits_keys(),
            addresses: self.shared.settings.report_addresses.clone(),
        }
    }

    fn welcome(&mut self, url: &ControllerUrl, welcome: &Welcome) -> Result<(), String> {
        let Welcome { wire, controller, program, instance } = welcome;
        if *wire != WIRE {
            return Err(format!("it speaks version {wire} of the stream, this gateway version {WIRE}"));
        }
        tracing::info!(%url, %controller, %program, "controller is followed");
        self.shared.state.controller.connected();
        self.instance.clone_from(instance);
        Ok(())
    }

    async fn take(&mut self, received: Received, sender: &mut SendStream<Bytes>) -> Result<(), String> {
        match received {
            Received::Nothing => Ok(()),
            Received::Delta(delta, origin) => self.judge(delta, origin, sender).await,
            Received::Current(version) => self.current(version, sender).await,
            Received::Resync(why) => {
                tracing::warn!("controller: {why}; everything is asked for");
                self.shared.state.controller.resynced();
                send(sender, Frame::Resync(Resync { why: why.into() })).await
            }
        }
    }

    /// Takes a change, unless it may be older than what is in force, or lost most of it.
    async fn judge(&mut self, delta: Box<Delta>, origin: Origin, sender: &mut SendStream<Bytes>) -> Result<(), String> {
        let have = &self.guard.base(self.applier.snapshot()).version;
        // Once something of a controller is in force, all that it sends comes after that, in this connection and in later ones. Its
        // versions say less: what is known of a kind is as old as the quietest of its feeds, and what is shown as new as the busiest.
        let is_its_own = self.has_acknowledged || (self.instance.is_some() && self.instance == self.have_from);
        if !is_its_own && let Err(behind) = delta.version.may_follow(have) {
            tracing::warn!("controller: what it sends is not taken: {behind}");
            self.shared.state.controller.refused();
            return send(sender, Frame::Ahead(Ahead { have: have.clone() })).await;
        }
        match self.guard.judge(delta, origin, self.applier.snapshot(), Instant::now()) {
            Judgement::Take(delta) => {
                self.shared.state.controller.holds(false);
                self.apply(&delta)?;
                self.acknowledge(sender).await
            }
            Judgement::Hold(None) => Ok(()),
            Judgement::Hold(Some(doubt)) => {
                tracing::error!(
                    "controller: {} of {} routes are gone in what it sends; that is held back for {} s at most, and a second, complete listing is asked for",
                    doubt.routes.saturating_sub(doubt.left),
                    doubt.routes,
                    HOLD_LIMIT.as_secs()
                );
                self.shared.state.controller.holds(true);
                send(sender, Frame::Doubt(doubt)).await
            }
        }
    }

    /// Puts in force what was held back for long enough.
    async fn release(&mut self, sender: &mut SendStream<Bytes>) -> Result<(), String> {
        let Some(delta) = self.guard.expired(self.applier.snapshot(), Instant::now()) else { return Ok(()) };
        tracing::error!("what was held back for {} s is put in force", HOLD_LIMIT.as_secs());
        self.shared.state.controller.holds(false);
        self.apply(&delta)?;
        self.acknowledge(sender).await
    }

    /// The controller publishes this version: with equal content it is the version of what is in force.
    async fn current(&mut self, version: Version, sender: &mut SendStream<Bytes>) -> Result<(), String> {
        let is_equal = version.digest == self.applier.snapshot().version.digest;
        if !is_equal || self.guard.holds() || !self.shared.state.has_table() {
            return Ok(());
        }
        self.applier.adopt(version);
        self.have_from.clone_from(&self.instance);
        self.shared.state.in_step();
        // Equal content comes without a change that could be acknowledged.
        if self.has_acknowledged { Ok(()) } else { self.acknowledge(sender).await }
    }

    async fn acknowledge(&mut self, sender: &mut SendStream<Bytes>) -> Result<(), String> {
        self.has_acknowledged = true;
        let ack = Ack { version: self.applier.snapshot().version.clone(), refused: self.applier.refused() };
        send(sender, Frame::Ack(ack)).await
    }

    /// # Errors
    /// What came does not make what the controller has; the connection has to start over.
    fn apply(&mut self, delta: &Delta) -> Result<(), String> {
        let started = Instant::now();
        let is_first = !self.shared.state.has_table();
        if !delta.is_empty() || is_first {
            self.applier.put_in_force(delta);
        }
        self.have_from.clone_from(&self.instance);
        let version = self.applier.snapshot().version.clone();
        tracing::info!(%version, us = started.elapsed().as_micros() as u64, "configuration applied");
        self.shared.state.in_step();
        if version.digest != delta.version.digest && !delta.is_empty() {
            let (got, said) = (version.digest.short(), delta.version.digest.short());
            return Err(format!("a change made {got} here and {said} there"));
        }
        Ok(())
    }

    /// What is done now and then, connected or not.
    fn tick(&mut self) {
        self.applier.sweep();
        if let Some(files) = &mut self.default_certificate {
            files.reload();
        }
    }

    /// True: the gateway ends.
    fn obey(&mut self, signal: Option<Signal>) -> bool {
        match signal {
            None | Some(Signal::Stop) => true,
            Some(Signal::Asked | Signal::Tree | Signal::File(_)) => {
                self.tick();
                false
            }
        }
    }
}

/// Waits for the end of the gateway and leaves other signals unread until then.
async fn stopped(signals: &mut UnboundedReceiver<Signal>) {
    while !matches!(signals.recv().await, None | Some(Signal::Stop)) {}
}

/// Ends the connection's own task with the session.
struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The two directions of the stream, and the task that drives its connection.
type Opened = (SendStream<Bytes>, Frames, Connection);

async fn open(controller: &ControllerUrl, credentials: &Credentials) -> Result<Opened, String> {
    let limited = timeout(CONNECT_LIMIT, connect(controller, credentials)).await;
    limited.unwrap_or_else(|_| Err(format!("no connection within {} s", CONNECT_LIMIT.as_secs())))
}

async fn connect(controller: &ControllerUrl, credentials: &Credentials) -> Result<Opened, String> {
    let text = |error: std::io::Error| error.to_string();
    let tcp = TcpStream::connect((controller.host.as_str(), controller.port)).await.map_err(text)?;
    tcp.set_nodelay(true).map_err(text)?;
    match controller.secure {
        true => {
            let authorization = credentials.authorization()?;
            let stream = credentials.connect(controller, tcp).await?;
            ask(controller, stream, authorization).await
        }
        false => ask(controller, tcp, None).await,
    }
}

/// Asks for the stream over a connection.
async fn ask<IO>(controller: &ControllerUrl, io: IO, authorization: Option<HeaderValue>) -> Result<Opened, String>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let text = |error: &dyn Display| tls::explained(error.to_string());
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).enable_push(false);
    let (client, connection) = builder.handshake::<_, Bytes>(io).await.map_err(|error| text(&error))?;
    let connection = Connection(tokio::spawn(async move { drop(connection.await) }));
    let mut client = client.ready().await.map_err(|error| text(&error))?;
    let mut request = Request::builder().method(Method::POST).uri(format!("{controller}{PATH}"));
    if let Some(value) = authorization {
        request = request.header(AUTHORIZATION, value);
    }
    let request = request.body(()).map_err(|error| text(&error))?;
    let (response, sender) = client.send_request(request, false).map_err(|error| text(&error))?;
    let response = response.await.map_err(|error| text(&error))?;
    match response.status() {
        StatusCode::OK => Ok((sender, Frames::of(response.into_body()), connection)),
        StatusCode::UNAUTHORIZED => Err(
            "it refuses this gateway's credentials (401): see clientCert or tokenFile here, and the controller's log"
                .to_owned(),
        ),
        StatusCode::SERVICE_UNAVAILABLE => Err("it cannot look at this gateway's credentials now (503)".to_owned()),
        status => Err(format!("it answers {status} on {PATH}: is this the publish address of a controller?")),
    }
}

async fn send(sender: &mut SendStream<Bytes>, frame: Frame) -> Result<(), String> {
    match timeout(SILENCE, frames::send(sender, &frame)).await {
        Ok(sent) => sent.map_err(|error| error.to_string()),
        Err(_) => Err(format!("it reads nothing for {SILENCE_SECONDS} s")),
    }
}
